"""URLs in messages: what may be shown of one, and what a library says about one without its secrets."""

from urllib.parse import parse_qsl, quote, unquote, urlsplit


def shown(url: str) -> str:
    """A URL without user, password, query and fragment."""
    protocol, _, rest = url.partition("://")
    return f"{protocol}://{rest.split('?')[0].split('#')[0].rpartition('@')[2]}"


def source(named: str) -> str:
    """What params name as a source, for logs: a URL without password, token and query, with its user where it has a
    password; a SQL query or a path as it is."""
    if "://" not in named or named.startswith("sql:"):
        return named
    protocol, _, rest = named.partition("://")
    user, at, place = rest.split("?")[0].split("#")[0].rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{protocol}://{f'{name}:***@' if colon else '***@' if at else ''}{place}"


def clean(error: BaseException, url: str) -> str:
    """The first line of an error's message, without the secrets that `url` holds."""
    return hidden((str(error).splitlines() or [type(error).__name__])[0], url)


def hidden(text: str, url: str) -> str:
    """`text` in one line, without the secrets that `url` holds."""
    text = " ".join(text.split()).replace(url, shown(url))
    for secret in sorted(_secrets(url), key=len, reverse=True):
        for form in {secret, unquote(secret), quote(secret, safe="")}:
            text = text.replace(form, "***")
    return text


def _secrets(url: str) -> set[str]:
    """What must not be shown of a URL (or of several chained with `::`): passwords, tokens, values of the query."""
    found: set[str] = set()
    for part in url.split("::"):
        rest = part.partition("://")[2]
        # up to the last @ as well as up to the first slash: a password may hold either, unquoted
        for user in (rest.rpartition("@")[0], rest.split("/")[0].rpartition("@")[0]):
            name, _, password = user.partition(":")
            found.add(password or name)
        found |= {value for _, value in parse_qsl(urlsplit(part).query)}
    return found - {""}
