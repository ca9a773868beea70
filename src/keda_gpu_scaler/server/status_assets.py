# SPDX-License-Identifier: Apache-2.0
"""The fixed parts of the status page: HTML frame, style sheet, script and content security policy.

Law: the policy permits this style sheet and this script by their hashes, and nothing else.
"""

from keda_gpu_scaler.server.status_text import safe_text

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --faint: #57606a; --line: #d0d7de;
  --good: #116329; --bad: #a40e26; --link: #0550ae; --band: #dbeafe; --idle: #eaeef2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --faint: #9198a1; --line: #3d444d;
  --good: #56d364; --bad: #ff8182; --link: #79c0ff;
  --band: #12304f; --idle: #21262d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 88rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; } h2 .faint { font-weight: 400; }
p { margin: .3rem 0; } a { color: var(--link); } .faint { color: var(--faint); }
.skip { position: absolute; left: -100vw; } .skip:focus { position: static; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
button { font: inherit; color: inherit; background: none; border: 1px solid var(--faint); border-radius: .3rem;
  padding: .1rem .7rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--faint); padding-bottom: .3rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-top: 1px solid var(--line); }
thead th { border-top: 0; vertical-align: bottom; } tbody th { font-weight: 600; }
th .faint, th .faint .bad, p.bad { font-weight: 400; }
.steps td { border-top: 0; padding-top: 0; }
.steps td > * { position: sticky; left: 0; max-width: min(86rem, calc(100vw - 2rem)); overflow-wrap: anywhere; }
code { font: .9375em ui-monospace, monospace; overflow-wrap: anywhere; }
meter { width: 5rem; vertical-align: middle; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
ol { margin: .3rem 0; } li, dd { overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem 1rem;
  margin: .5rem 0; }
.facts dt { color: var(--faint); font-size: .9rem; } .facts dd { margin: 0; }
figure { margin: 1rem 0 1.5rem; } figcaption { font-weight: 600; margin-bottom: .3rem; }
.plot { display: grid; grid-template-columns: 4.5rem minmax(0, 1fr); column-gap: .5rem; }
.scale { display: flex; flex-direction: column; justify-content: space-between; text-align: right; line-height: 1; }
.scale, .hour { color: var(--faint); font-size: .875rem; }
.hour { display: flex; justify-content: space-between; margin-left: 5rem; }
svg.chart { display: block; width: 100%; height: 10rem; border: solid var(--faint); border-width: 0 0 1px 1px; }
svg.spark { width: 7rem; height: 1.8rem; border-width: 0 0 1px; }
.chart path { fill: none; stroke-width: 2px; stroke-linecap: round; stroke-linejoin: round;
  vector-effect: non-scaling-stroke; }
.chart .measured { stroke: var(--link); } .chart .replicas { stroke: var(--ink); }
.chart .target { stroke: var(--bad); stroke-width: 1.5px; stroke-dasharray: 6 5; stroke-linecap: butt; }
.chart .wanted { stroke: var(--link); stroke-dasharray: 2 5; }
.chart .ready { stroke: var(--good); stroke-dasharray: 9 4; stroke-linecap: butt; }
.chart .no-value { fill: var(--bad); } .chart .inactive { fill: var(--idle); }
.chart .inactive-bar { fill: var(--faint); }
.chart .limits { fill: var(--band); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; margin: .3rem 0 0 5rem; padding: 0;
  font-size: .875rem; }
.key::before { content: ""; display: inline-block; width: 1.6rem; margin-right: .4rem; vertical-align: middle;
  border-top: 2px solid; }
.key.measured::before { border-color: var(--link); } .key.target::before { border-top: 2px dashed var(--bad); }
.key.ready::before { border-top: 2px dashed var(--good); }
.key.wanted::before { border-top: 3px dotted var(--link); } .key.no-value::before { border-top: 5px solid var(--bad); }
.key.limits::before, .key.inactive::before { height: .9rem; border: 1px solid var(--faint); background: var(--band); }
.key.inactive::before { background: var(--idle); border-bottom-width: 5px; }
#live { color: var(--bad); min-height: 1.45rem; } .stale { opacity: .6; }
@media (max-width: 68rem) {
  #workloads-table tr > :nth-child(3), #workloads-table tr > :nth-child(n+9) { display: none; }
}
@media (max-width: 44rem) {
  body { padding: .5rem; } .steps td > * { max-width: calc(100vw - 1rem); }
  th, td { padding-right: .2rem; } table { font-size: .85rem; } thead th { font-size: .75rem; }
  svg.spark { width: 2.4rem; } meter { width: 3rem; }
  #workloads-table tr > :nth-child(8), #fleet-table tr > :nth-child(5), #fleet-table tr > :nth-child(6) {
    display: none; }
  #workloads-table tbody th { overflow-wrap: anywhere; min-width: 4.8rem; }
  #fleet-table tbody th, #fleet-table td:last-child { overflow-wrap: anywhere; min-width: 3.2rem; }
}
"""
SCRIPT = """
'use strict';
const live = document.getElementById('live'), button = document.getElementById('pause');
let paused = false;
button.hidden = false;
button.addEventListener('click', () => {
  paused = !paused;
  button.textContent = paused ? 'Resume updates' : 'Pause updates';
  refresh();
});
function findDetails(root, key) {
  return [...root.querySelectorAll('details')].find(details => details.dataset.key === key);
}
async function refresh() {
  const main = document.querySelector('main');
  const selection = document.getSelection();
  if (paused || document.hidden || (!selection.isCollapsed && main.contains(selection.anchorNode))) return;
  try {
    const options = { cache: 'no-store', signal: AbortSignal.timeout(5000) };
    const response = await fetch(location.pathname + location.search, options);
    if (!response.ok && response.status !== 404) throw new Error();
    const page = new DOMParser().parseFromString(await response.text(), 'text/html');
    const next = page.querySelector('main'), focused = document.activeElement;
    for (const opened of main.querySelectorAll('details[open]')) {
      const successor = findDetails(next, opened.dataset.key);
      if (successor) successor.open = true;
    }
    const link = main.contains(focused) && focused.href;
    const details = main.contains(focused) ? focused.closest('details') : null;
    const region = main.contains(focused) && focused.id;
    const scrolled = new Map([...main.querySelectorAll('.scroll')].map(table => [table.id, table.scrollLeft]));
    main.replaceChildren(...next.childNodes);
    document.getElementById('now').replaceWith(page.getElementById('now'));
    for (const [id, left] of scrolled) {
      const table = document.getElementById(id);
      if (table) table.scrollLeft = left;
    }
    const focusTarget = link ? [...main.querySelectorAll('a')].find(next => next.href === link)
      : region ? document.getElementById(region)
      : details ? findDetails(main, details.dataset.key)?.querySelector('summary') : null;
    if (focusTarget) focusTarget.focus({ preventScroll: true });
    main.classList.remove('stale');
    if (live.textContent) live.textContent = '';
  } catch {
    main.classList.add('stale');
    if (!live.textContent) live.textContent = 'This instance does not answer. The data on this page is out of date.';
  }
}
setInterval(refresh, 2000);
"""
# Constants, because computing the hashes would load OpenSSL on every node. A test compares them with the texts.
STYLE_HASH = "sha256-PgYF1lOpVOB1fSmFo4hW+NiWTADA294d5p+CoK7jRtE="
SCRIPT_HASH = "sha256-B85rGLowAklMV0SZhet/sspdQteqEHnMKt+9IHimZ8o="
POLICY = (
    f"default-src 'none'; style-src '{STYLE_HASH}'; script-src '{SCRIPT_HASH}'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page's Content-Security-Policy."""

DOCUMENTS = "https://github.com/keda-gpu-scaler/keda-gpu-scaler/blob/main/docs"
"""The address of the folder of the guides."""


def head(title: str) -> str:
    """Return the start of a document, with its title."""
    return f"""<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=color-scheme content="light dark">
<noscript><meta http-equiv=refresh content=10></noscript>
<link rel=icon href="data:,">
<title>{safe_text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<a class=skip href="#main">Skip to the content</a>"""


FOOT = f"""<footer class=faint>
<p>This page changes nothing. Prometheus scrapes <a href="/metrics">/metrics</a>.
<a href="{DOCUMENTS}/guides/watching.md#the-status-page">How to read this page</a>;
<a href="{DOCUMENTS}/operating.md">what to do when something is wrong</a>;
<a href="{DOCUMENTS}/guides/simulating.md">how to try another target</a>.</p>
</footer>
<script>{SCRIPT}</script>
</body>
</html>
"""
