// A document of docs/ as a page: /page/document.html#model_card shows /page/model_card.md. It knows as much of Markdown
// as those have: headings, paragraphs, lists, tables of two columns, **bold**, `code` and links.

const INLINE = /\*\*(.+?)\*\*|`(.+?)`|\[(.+?)\]\((.+?)\)/g;
const BLOCKS = [
  { starts: /^# /, make: (text) => of("h1", inline(text.slice(2))) },
  { starts: /^## /, make: (text) => of("h2", inline(text.slice(3))) },
  { starts: /^- /, make: (text) => of("ul", items(text, /^- /m)) },
  { starts: /^\d+\. /, make: (text) => of("ol", items(text, /^\d+\. /m)) },
  { starts: /^\|/, make: (text) => of("table", text.split("\n").map(row).filter(Boolean)) },
  { starts: /^/, make: (text) => of("p", inline(text)) },
];

function of(tag, children) {
  const element = document.createElement(tag);
  element.append(...children);
  return element;
}

function inline(text) {
  const made = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, bold, code, name, target] = match;
    made.push(text.slice(at, match.index), bold ? of("strong", [bold]) : code ? of("code", [code]) : link(name, target));
    at = match.index + whole.length;
  }
  return [...made, text.slice(at)];
}

/** A link to a document that is here; the name alone of one that is in the repository. */
function link(name, target) {
  const [, here] = target.match(/^(responsible_use|model_card)\.md$/) ?? [];
  if (!here) return name;
  const element = of("a", [name]);
  element.href = `#${here}`;
  return element;
}

function items(text, mark) {
  return text.split(mark).slice(1).map((item) => of("li", inline(item.trim())));
}

function row(line) {
  const cells = line.split("|").slice(1, -1).map((cell) => cell.trim());
  if (cells.every((cell) => /^-*$/.test(cell))) return null; // the line under a head, and a head that is empty
  return of("tr", cells.map((cell, i) => of(i ? "td" : "th", inline(cell))));
}

async function show() {
  const name = location.hash.slice(1).replace(/\W/g, "");
  const text = await (await fetch(`/page/${name}.md`)).text();
  const blocks = text
    .trim()
    .split(/\n\n+/)
    .map((block) => BLOCKS.find(({ starts }) => starts.test(block)).make(block));
  const shown = document.getElementById("document");
  shown.replaceChildren(...blocks);
  document.title = `omni: ${shown.querySelector("h1").textContent}`;
  scrollTo(0, 0);
}

window.addEventListener("hashchange", show);
show();
