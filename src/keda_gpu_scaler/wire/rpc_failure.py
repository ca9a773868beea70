# SPDX-License-Identifier: Apache-2.0
"""Says in a sentence why a call between two programs did not succeed, with what to do about it.

Law: the texts of gRPC's own library never reach a person. A text that is not known leads to the sentence of its status.
A refusal by this program's own servers begins with the method and has its own remedy, so it is shown as it is.

The texts are those of gRPC 1.62 and later (src/core: tcp_connect, ssl_transport_security, the DNS resolvers).
"""

_SENTENCES = (
    ("certificate has expired", "its certificate, or that of its CA, has expired: renew it, then check why it was not"),
    ("certificate is not yet valid", "its certificate is not valid yet: check the clocks of both machines"),
    ("hostname verification", "its certificate contains another name: use the name in the certificate"),
    ("certificate_verify_failed", "its certificate is not signed by the expected CA: use the CA that signed it"),
    ("wrong_version_number", "it does not use TLS: call it without TLS, or configure its certificate"),
    ("certificate_expired", "it refuses this client's certificate, which has expired: renew it"),
    ("alert", "it refuses this client's certificate: let the CA that it trusts sign one for clients"),
    ("handshake", "the TLS handshake does not succeed: check the certificates of both sides"),
    ("connection refused", "nothing listens there (connection refused): is it running, and is the port right?"),
    ("dns resolution", "the name is not resolved: check it, and the DNS of the cluster"),
    ("name or service not known", "the name is not resolved: check it, and the DNS of the cluster"),
    ("no route to host", "there is no route to it: check the network and its policies"),
    ("network is unreachable", "there is no route to it: check the network and its policies"),
    ("timed out", "it does not answer in time: check the network and its policies"),
    ("timeout", "it does not answer in time: check the network and its policies"),
    ("connection reset", "the connection was closed: was it restarted, or does it use TLS?"),
    ("socket closed", "the connection was closed: was it restarted, or does it use TLS?"),
    ("larger than max", "its answer is larger than the limit of a message"),
)
"""A part of a text in lower case, and the sentence for it. The first one that fits counts."""

_OF_STATUS = {
    "DEADLINE_EXCEEDED": "it does not answer in time: check the network and its policies, and the load of its node",
    "UNIMPLEMENTED": "it does not have this call: is it a keda-gpu-scaler, and of this version?",
    "RESOURCE_EXHAUSTED": "it refuses further calls, because a limit is reached: try again later",
    "PERMISSION_DENIED": "it refuses this client: use a client certificate that it accepts",
    "UNAUTHENTICATED": "it refuses this client: use a client certificate that it accepts",
    "CANCELLED": "the call was cancelled: try again",
    "UNAVAILABLE": "it cannot be reached: is it running, and does the network allow the connection?",
}
_REFUSALS = ("PERMISSION_DENIED", "UNAUTHENTICATED")
_METHODS = ("Explain: ", "Preview: ", "ListWorkloads: ", "Watch: ", "RegisterInterest: ")
_MAX_REFUSAL_LENGTH = 1000
_OTHER = "it answers with an error of its own: see its log"


def rpc_failure(status: str, details: str) -> str:
    """Return why a call did not succeed, as a sentence whose subject is the server.

    Args:
        status: the name of gRPC's status code.
        details: the text that came with it; of the library itself, and of no use to a person.
    """
    if status in _REFUSALS and details.startswith(_METHODS):
        refusal = details.partition(": ")[2][:_MAX_REFUSAL_LENGTH]
        return "".join(char if char.isprintable() else "\ufffd" for char in refusal)
    if status in ("UNAVAILABLE", "UNKNOWN", "INTERNAL", "RESOURCE_EXHAUSTED"):
        lower = details.lower()
        found = next((sentence for part, sentence in _SENTENCES if part in lower), None)
        if found is not None:
            return found
    return _OF_STATUS.get(status, _OTHER)
