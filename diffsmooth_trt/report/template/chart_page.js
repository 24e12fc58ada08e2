const LOOKS = { colours: ["--accent", "--ink", "--soft"], dashes: ["", "7 4", "2 3"] };
const FOLDED = 20; // rows of a table; of more, one asks for the rest

/** Round steps of an axis from `from` to `to`, which may lie below 0. */
function marks(from, to, wanted) {
  const step = ticks(to - from, wanted)[1];
  const first = Math.ceil(from / step - 1e-9);
  return Array.from({ length: Math.floor(to / step + 1e-9) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(10)));
}

/** Lines through given points, and a shade between two of them. */
function lineChart(spec) {
  const holder = make("div.chart");
  const [[from, to], [low, high]] = [spec.reach, spec.height];
  const looks = spec.lines.map(({ colour, dash }) => ({ colour: LOOKS.colours[colour % 3], dash: LOOKS.dashes[dash % 3] }));
  fitted(holder, (width) => {
    const height = Math.round(Math.min(420, Math.max(250, width * (width > 700 ? 0.46 : 0.7))));
    const [left, right, top, bottom] = [46, 12, 12, 46];
    const x = (value) => left + ((width - left - right) * (Math.min(to, Math.max(from, value)) - from)) / (to - from);
    const level = spec.logarithmic ? (value) => Math.log10(Math.max(value, low)) : (value) => value;
    const y = (value) => top + ((height - top - bottom) * (level(high) - level(Math.min(high, Math.max(low, value))))) / (level(high) - level(low));
    const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `${spec.title}. The numbers are in the tables.` });
    const heights = spec.logarithmic ? Array.from({ length: Math.round(level(high) - level(low)) + 1 }, (_, i) => low * 10 ** i) : marks(low, high, 4);
    for (const value of heights)
      picture.append(draw("line", { class: value === low ? "axis" : "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
        draw("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, short(value)));
    for (const value of marks(from, to, width > 600 ? 8 : 4))
      picture.append(draw("line", { class: "axis", x1: x(value), x2: x(value), y1: y(low), y2: y(low) + 5 }), draw("text", { x: x(value), y: y(low) + 20, "text-anchor": "middle" }, short(value)));
    picture.append(draw("text", { x: width - right, y: height - 6, "text-anchor": "end" }, spec.x), draw("text", { x: left, y: height - 6 }, spec.y));
    const path = (points) => points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join("L");
    if (spec.between) {
      const [first, second] = spec.between.map((number) => spec.lines[number].points);
      picture.append(draw("path", { d: `M${path(first)}L${path([...second].reverse())}Z`, style: "fill:var(--wash)" }));
    }
    spec.lines.forEach((line, number) => {
      const { colour, dash } = looks[number];
      picture.append(draw("path", { class: "line", d: `M${path(line.points)}`, style: `stroke:var(${colour})`, "stroke-dasharray": dash || null }),
        ...line.dots.map(([a, b]) => draw("circle", { class: "dot", cx: x(a), cy: y(b), r: 4.5, style: `fill:var(${colour})` })));
    });
    holder.replaceChildren(picture);
  });
  const legend = make("ul.legend.lines", {}, spec.lines.map((line, number) => make("li", {}, swatch(looks[number].colour, looks[number].dash), line.name)));
  return make("div", {}, holder, legend);
}

function pageTable(spec) {
  const kind = (column) => (spec.text.includes(column) ? ".text" : "");
  const body = make("tbody");
  const show = (rows) => body.append(...rows.map((row) => make("tr", {}, row.map((cell, column) => (column ? make(`td${kind(column)}`, {}, cell) : make(`th${kind(column)}`, { scope: "row" }, cell))))));
  show(spec.rows.slice(0, FOLDED));
  const holder = make("div", {}, scrolling(`Table: ${spec.title}`, make("table.wide.whole", {}, make("thead", {}, make("tr", {}, spec.head.map((name, column) => make(`th${kind(column)}`, { scope: "col" }, name)))), body)));
  if (spec.rows.length > FOLDED) {
    const more = make("button.more", { type: "button", onclick: () => {
      show(spec.rows.slice(FOLDED));
      more.remove();
      const next = body.children[FOLDED];
      next.tabIndex = -1;
      next.focus({ preventScroll: true });
    } }, `Show all ${count(spec.rows.length)}`);
    holder.append(more);
  }
  return holder;
}

const places = []; // sections by id and title
function place(title, said, inside, within = main) {
  const id = `part-${places.length + 1}`;
  places.push([id, title]);
  within.append(section(id, title, said, inside));
}

const lede = document.getElementById("lede");
lede.append(make("p.lede", {}, unbroken(DATA.lede)), make("p.quiet.set", {}, DATA.set), ...DATA.warnings.map((said) => make("p.warn", {}, said)));
main.append(make("dl.figures", {}, DATA.figures.map(([name, value, said]) => make("div", {}, make("dt", {}, name), make("dd", {}, value, said ? make("small", {}, said) : null)))));
let columns = null; // of narrow charts
DATA.charts.forEach((spec) => {
  if (!spec.narrow) columns = null;
  else if (!columns) main.append(columns = make("div.columns"));
  place(spec.title, spec.said, lineChart(spec), columns || main);
});
DATA.tables.forEach((spec) => place(spec.title, spec.said, pageTable(spec)));
place("What this rests on", "", [make("dl.words", {}, DATA.words.map(([title, said]) => make("div", {}, make("dt", {}, title), make("dd", {}, coded(said))))),
  ...DATA.facts.map(([name, facts]) => make("details", { open: DATA.facts.length === 1 ? "" : null }, make("summary", {}, name), factList(facts)))]);
document.getElementById("footer").append(make("p.quiet", {}, `Made by diffsmooth-trt ${DATA.version} from ${DATA.files.join(", ")}. ${DATA.rounding}`));
finish(places);
