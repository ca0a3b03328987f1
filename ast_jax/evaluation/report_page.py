"""The frame of report.html: one page without any outside resource, light and dark, made for a phone as well as a desk."""

from html import escape

# An arrow's second `content` gives it an empty name for screen readers, in browsers that know that form.
_STYLE = """
:root { color-scheme: light dark; --page: #f5f6f8; --paper: #ffffff; --ink: #1c2128; --faint: #5d6670; --line: #e0e4e9;
  --accent: #0072b2; --bar: #cfe6f5; --good: #00724f; --bad: #b34700; }
@media (prefers-color-scheme: dark) { :root { --page: #111418; --paper: #1a1e24; --ink: #e6e8eb; --faint: #9aa4af;
  --line: #343b44; --accent: #56b4e9; --bar: #1e4763; --good: #2fbf96; --bad: #f0a35e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
header, main, footer { max-width: 70rem; margin: 0 auto; padding: 1rem; }
header { padding-top: 2rem; } footer { color: var(--faint); padding-bottom: 3rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .7rem; } h3 { font-size: 1rem; margin: 1.4rem 0 .6rem; }
p { margin: .4rem 0; } a { color: var(--accent); } .faint { color: var(--faint); } .good { color: var(--good); } .bad { color: var(--bad); }
nav { margin-top: 1rem; display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
nav a { padding: .2rem 0; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); align-items: start; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: .6rem; padding: .9rem; min-width: 0; }
.figures { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr)); margin: 1.2rem 0; }
.figures div { background: var(--paper); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem .9rem; }
.figures dt { color: var(--faint); font-size: .9rem; } .figures dd { margin: 0; font-size: 1.6rem; font-weight: 650; line-height: 1.3; }
.figures .main { border-color: var(--accent); border-width: 2px; } .figures small { display: block; font-size: .8rem; font-weight: 400; color: var(--faint); }
figure { margin: 0; } figure.card { padding: .5rem; } img { display: block; width: 100%; height: auto; } .narrow { max-width: 34rem; } .wide, .wide + .classes { grid-column: 1 / -1; }
.scroll { overflow: auto; } .scroll:focus-visible { outline: 2px solid var(--accent); } .wide .scroll img { min-width: 44rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
tr:last-child td, tr:last-child th { border-bottom: 0; } tbody th { font-weight: 500; }
thead th { color: var(--faint); font-weight: 600; } .classes th, .classes td { overflow-wrap: normal; } .classes tbody th { min-width: 9rem; }
.classes thead th { position: sticky; top: 0; background: var(--paper); padding: 0; box-shadow: inset 0 -1px var(--line); }
.classes .scroll { max-height: 34rem; } .number { text-align: right; white-space: nowrap; }
.share { background: linear-gradient(90deg, var(--bar) calc(var(--v) * 100%), transparent 0); }
th button { all: unset; box-sizing: border-box; width: 100%; cursor: pointer; padding: .45rem .6rem; white-space: nowrap; }
th button:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; } th button:hover { color: var(--ink); }
th button::after { content: "\\2195"; content: "\\2195" / ""; opacity: .4; padding-left: .3rem; }
th[aria-sort] button::after { opacity: 1; } th[aria-sort=ascending] button::after { content: "\\2191"; content: "\\2191" / ""; } th[aria-sort=descending] button::after { content: "\\2193"; content: "\\2193" / ""; }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; } audio { width: 100%; height: 2.4rem; margin-top: .6rem; }
.clip h4 { margin: 0; font-size: 1rem; overflow-wrap: anywhere; } .clip p { font-size: .92rem; overflow-wrap: anywhere; } .clip img { height: 7rem; border-radius: .3rem; margin-top: .6rem; }
.seconds { display: flex; justify-content: space-between; font-size: .8rem; color: var(--faint); }
summary { cursor: pointer; padding: .3rem 0; } summary:focus-visible { outline: 2px solid var(--accent); }
"""

# Sorts a table by the column whose heading is pressed: numbers high to low first, names from A; empty cells stay last.
_SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.closest("th"), column = head.cellIndex, body = head.closest("table").tBodies[0];
  const key = row => row.cells[column].dataset.v, number = head.classList.contains("number");
  const before = head.getAttribute("aria-sort"), first = number ? "descending" : "ascending";
  const order = before === first ? (number ? "ascending" : "descending") : first, sign = order === "ascending" ? 1 : -1;
  const compare = (a, b) => number ? a - b : a.localeCompare(b, undefined, {numeric: true});
  const rows = [...body.rows].sort((a, b) => key(a) === "" || key(b) === "" ? (key(a) === "") - (key(b) === "") : sign * compare(key(a), key(b)));
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  body.append(...rows);
});
"""

# The browser itself is told to load nothing: a label or path that slipped through could fetch nothing either.
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(title: str, header: str, sections: list[tuple[str, str, str]], footer: str) -> str:
    """The whole document. `sections` holds (anchor, heading, HTML); `title` and headings are plain text, the rest is HTML."""
    links = "".join(f'<a href="#{anchor}">{escape(heading)}</a>' for anchor, heading, _ in sections)
    body = "".join(
        f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{escape(heading)}</h2>\n{html}\n</section>\n'
        for anchor, heading, html in sections
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
{header}
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{body}</main>
<footer>{footer}</footer>
<script>{_SCRIPT}</script>
</body>
</html>
"""
