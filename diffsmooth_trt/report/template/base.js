const main = document.getElementById("main");
const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs;
const CERTIFIED = RUNS.filter((run) => run.certified);
const STYLES = [["--accent", ""], ["--ink", ""], ["--ink", "7 4"], ["--accent", "7 4"], ["--ink", "2 3"], ["--accent", "2 3"], ["--soft", ""], ["--soft", "7 4"]]
  .map(([colour, dash]) => ({ colour, dash })); // of the runs' lines
const looked = { radius: 0, run: RUNS[0] }; // what the reader looks at
const followers = []; // what is drawn again when the radius changes

/** An element: a name with classes, attributes, and what is in it; text is text, whatever it holds. */
function make(name, attributes = {}, ...inside) {
  const [tag, ...classes] = name.split(".");
  const found = document.createElement(tag);
  if (classes.length) found.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) found.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) found.setAttribute(key, value);
  }
  found.append(...inside.flat().filter((each) => each !== null && each !== undefined));
  return found;
}

/** An SVG element. */
function draw(tag, attributes = {}, ...inside) {
  const found = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) found.setAttribute(key, value);
  found.append(...inside.flat());
  return found;
}

const count = (number) => number.toLocaleString("en");
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
const percent = (share) => `${share.toFixed(1)} %`;
const between = ({ low, high }) => `${low.toFixed(1)}–${high.toFixed(1)}`;

/** A radius as typed: as many digits as it has, at most six. */
const short = (radius) => String(Number(radius.toFixed(6)));

/** The name of a class in a run, or its number. */
function className(run, label) {
  if (label < 0) return "abstains";
  return run.names && run.names[label] !== undefined ? run.names[label] : `class ${label}`;
}

/** The class that an image has in its data set. */
const labelName = (run, label) => (run.labelled ? className(run, label) : "no label");

/** A class and its votes. */
const voted = (run, [label, votes]) => `${run.names || label < 0 ? className(run, label) : `${label}:`} ${count(votes)}`;

/** Round steps of an axis up to `most`. */
function ticks(most, wanted) {
  const rough = most / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((part) => part * power).find((each) => each >= rough * 0.999);
  const found = [];
  for (let i = 0; i * step <= most * 1.0001; i += 1) found.push(Number((i * step).toPrecision(10)));
  return found;
}

/** Share and band of a run's curve at a radius: those of the first step that lies there or beyond. */
function onCurve(run, radius) {
  const steps = run.curve.radius;
  let low = 0;
  let high = steps.length; // the last share is that beyond all steps
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] >= radius) high = middle;
    else low = middle + 1;
  }
  return { share: run.curve.share[low], low: run.curve.low[low], high: run.curve.high[low] };
}

/** "right", "wrong" or "abstained": what became of a run's row; without labels any answer is right. */
function stateOf(run, row) {
  const { answer, label } = run.rows;
  return answer[row] < 0 ? "abstained" : !run.labelled || answer[row] === label[row] ? "right" : "wrong";
}

/** A drop-down list under its name. */
function select(name, options, chosen, onchange) {
  const items = options.map(([value, text]) => make("option", { value, selected: value === chosen ? "" : null }, text));
  return make("label", {}, name, make("select", { onchange: (event) => onchange(event.target.value) }, items));
}

/** A row of buttons of which one is pressed. */
function choice(name, options, chosen, onchange) {
  const group = `choice-${name.replace(/\W/g, "")}`;
  const items = options.map(([value, text, number]) =>
    make("label", {},
      make("input", { type: "radio", name: group, value, checked: value === chosen ? "" : null, onchange: () => onchange(value) }),
      text, number === undefined ? null : make("b", {}, count(number))));
  return make("fieldset.choice", {}, make("legend", {}, name), make("div", {}, items));
}

/** A table that may be wider than the page: then it scrolls, and is a stop of the keyboard. */
function scrolling(name, table) {
  const holder = make("div.scroll", { role: "region", "aria-label": name }, table);
  const fit = () => {
    if (holder.scrollWidth > holder.clientWidth) holder.tabIndex = 0;
    else holder.removeAttribute("tabindex");
  };
  const watched = new ResizeObserver(fit);
  watched.observe(holder);
  watched.observe(table);
  return holder;
}

/** A sentence whose percentages are not torn apart at the end of a line. */
const unbroken = (said) => said.replaceAll(" %", "\u00a0%");

/** A section of the page under its title. */
function section(id, title, said, ...inside) {
  return make("section", { id, "aria-labelledby": `${id}-title` }, make("h2", { id: `${id}-title` }, title), said ? make("p.quiet", {}, said) : null, ...inside);
}

/** Text with `names` in it. */
const coded = (said) => said.split("`").map((part, i) => (i % 2 ? make("code", {}, part) : part));

/** A list of names and what is said of them. */
const factList = (facts) => make("dl.facts", {}, facts.flatMap(([name, said]) => [make("dt", {}, name), make("dd", {}, said)]));

/** The line of a run or of a chart, as a legend shows it. */
const swatch = (colour, dash) => draw("svg", { class: "swatch", viewBox: "0 0 36 12", "aria-hidden": "true" },
  draw("path", { class: "line", d: "M0,6H36", style: `stroke:var(${colour})`, "stroke-dasharray": dash || null }));

/** What comes last: links to the sections that are there, and the place that the address names. */
function finish(titles) {
  document.getElementById("nav").append(...titles.filter(([id]) => document.getElementById(id)).map(([id, name]) => make("a", { href: `#${id}` }, name)));
  requestAnimationFrame(() => requestAnimationFrame(() => {
    document.documentElement.dataset.drawn = Math.round(performance.now());
    const wanted = location.hash && document.getElementById(location.hash.slice(1)); // which was not there when the page was read
    if (wanted) wanted.scrollIntoView({ behavior: "instant" });
  }));
}
