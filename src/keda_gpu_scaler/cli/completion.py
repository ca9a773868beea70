# SPDX-License-Identifier: Apache-2.0
"""Completes the last word of a command line, in a shell and for ``kubectl gpu-scaler``.

kubectl 1.26 and later calls ``kubectl_complete-gpu_scaler`` with the words after the plugin's name, the last one
incomplete. The answer is a word a line, each with its description after a tab, and a number for the shell in the last
line (kubectl: pkg/cmd/plugin/plugin_completion.go; cobra: completions.go).
"""

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from keda_gpu_scaler.cli import PLUGIN, main

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_FILES = 0
_NO_SPACE = 2
_NO_FILES = 4
_FOLDERS = 16


class _Text(click.ParamType[str]):
    """A text that is used as it is given."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return click.STRING.convert(value, param, ctx)


class FileName(_Text):
    """The name of a file; of a folder where ``is_folder``."""

    def __init__(self, *, is_folder: bool = False) -> None:
        self._kind = "dir" if is_folder else "file"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list["CompletionItem"]:
        """Let the shell complete it."""
        return [_item(incomplete, self._kind)]


class SuggestedName(_Text):
    """A text for which some words are suggested. They are computed when a word is completed, and no word is refused."""

    def __init__(self, words: Callable[[], Iterable[str]], *, or_file: bool = False) -> None:
        self._words = words
        self._or_file = or_file

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list["CompletionItem"]:
        """Return the words that begin so."""
        found = [_item(word) for word in self._words() if word.startswith(incomplete)]
        return found or ([_item(incomplete, "file")] if self._or_file else [])


class ScaledName(_Text):
    """The name of a ScaledObject or ScaledJob, with its namespace or without; completed with those in the cluster."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list["CompletionItem"]:
        """Return the names that begin so; none where the cluster does not answer at once."""
        from keda_gpu_scaler.cli.scaled_names import LIMIT_SECONDS, completed_names

        kubeconfig, context = (ctx.params.get(name) for name in ("kubeconfig", "kube_context"))
        return [_item(name) for name in completed_names(incomplete, kubeconfig, context, LIMIT_SECONDS)]


def _item(word: str, kind: str = "plain") -> "CompletionItem":
    from click.shell_completion import CompletionItem  # with a completion only: serve has these types too

    return CompletionItem(word, type=kind)


FILE = FileName()
FOLDER = FileName(is_folder=True)


def kubectl_completion() -> None:
    """Print the completions for kubectl: the entry point ``kubectl_complete-gpu_scaler``."""
    from click.shell_completion import ShellComplete

    *words, incomplete = sys.argv[1:] or [""]
    found = ShellComplete(main, {}, PLUGIN, "").get_completions(words, incomplete)
    kinds = {item.type for item in found}
    for item in found:
        if item.type == "plain":
            meaning = (item.help or "").partition(". ")[0]
            click.echo(f"{item.value}\t{meaning}" if meaning else item.value)
    directive = _FILES if "file" in kinds else _FOLDERS if "dir" in kinds else _NO_FILES
    if any(item.value.endswith("/") for item in found if item.type == "plain"):
        directive |= _NO_SPACE  # a name follows
    click.echo(f":{directive}")
