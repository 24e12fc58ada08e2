const MOST_CLASSES = 20; // of a confusion matrix; of more, the most frequent mistakes are listed
let chooseRadius = () => {};

function head() {
  const lede = document.getElementById("lede");
  if (DATA.lede.length > 1) lede.append(make("p.lede", {}, `${count(DATA.lede.length)} runs, side by side.`));
  const holder = make(DATA.lede.length > 1 ? "div.several" : "div");
  lede.append(holder);
  if (DATA.lede.length <= BANDS) DATA.lede.forEach((said, number) => holder.append(make("p.lede", {}, DATA.lede.length > 1 ? make("small", {}, RUNS[number].name) : null, unbroken(said))));
  if (RUNS.length === 1) lede.append(make("p.quiet.set", {}, RUNS[0].title));
  for (const run of RUNS.filter((each) => each.missing))
    lede.append(make("p.warn", {}, `${run.name} is unfinished: ${count(run.asked - run.missing)} of ${plural(run.asked, "image")}. Shares are ranges of what the finished run may show, without an interval of confidence.`));
  document.getElementById("footer").append(make("p.quiet", {}, `Made by diffsmooth-trt ${DATA.version} from ${RUNS.filter((run) => !run.envelope).map((run) => run.name).join(", ")}. Percentages and radii are rounded down, intervals outward.`));
}

function figures(run) {
  const at = DATA.radii.findIndex((radius) => radius > 0);
  const states = run.rows.answer.map((_, row) => stateOf(run, row));
  const number = (state) => states.filter((each) => each === state).length;
  const items = [];
  const add = (name, value, said) => items.push(make("div", {}, make("dt", {}, name), make("dd", {}, value, said ? make("small", {}, said) : null)));
  if (run.certified && at >= 0) {
    const band = onCurve(run, DATA.radii[at]);
    add(`certified at ${short(DATA.radii[at])}`, run.shares[at].replace("%", " %"), run.missing ? "in the end" : `95 %: ${between(band)} %`);
  }
  if (!run.certified && run.labelled) add("accuracy", run.accuracy.replace("%", " %"));
  if (run.average) add("average certified radius", run.average);
  add("images", count(run.asked), run.missing ? `${count(run.missing)} not finished` : run.labelled ? `${number("right")} right, ${number("wrong")} wrong` : `${number("right")} answered; they have no labels`);
  add("abstentions", count(number("abstained")));
  add("samples", count(run.drawn), `${run.samples} an image`);
  add("seconds an image", run.seconds);
  return make("dl.figures", {}, items);
}

function sideBySide() {
  const columns = CERTIFIED.length ? DATA.radii : [];
  const predicts = RUNS.some((run) => !run.certified);
  const names = [...columns.map((radius) => `at ${short(radius)}`), ...(CERTIFIED.length ? ["ACR"] : []), ...(predicts ? ["accuracy"] : []), "abstained", "samples/image", "seconds/image"];
  const cell = (run, radius, i) => {
    if (!run.certified) return make("td", {}, "–");
    const band = onCurve(run, radius);
    return make("td", {}, run.shares[i].replace("%", " %"), run.missing ? null : make("small", {}, between(band)));
  };
  const rows = RUNS.map((run) => make("tr", {}, make("th.text", { scope: "row" }, run.name), columns.map((radius, i) => cell(run, radius, i)),
    CERTIFIED.length ? make("td", {}, run.average || "–") : null, predicts ? make("td", {}, run.certified ? "–" : run.accuracy) : null,
    make("td", {}, count(run.rows.answer.filter((each) => each < 0).length)), make("td", {}, run.samples), make("td", {}, run.seconds)));
  return scrolling("Runs side by side", make("table.wide", {}, make("thead", {}, make("tr", {}, make("th.text", { scope: "col" }, "run"), names.map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, rows)));
}

function curveSection() {
  const most = reach();
  const step = most / 400;
  const slider = make("input", { type: "range", id: "radius", min: 0, max: most, step, "aria-describedby": "readout" });
  const exact = make("input.exact", { type: "number", min: 0, step: "any", "aria-label": "Radius, as a number", inputmode: "decimal" });
  const readout = make("ul.readout", { id: "readout" });
  chooseRadius = (radius, from) => {
    looked.radius = radius;
    if (from !== slider) slider.value = radius;
    if (from !== exact) exact.value = short(Number(radius.toFixed(3)));
    if (from !== exact) looked.radius = Number(exact.value);
    slider.setAttribute("aria-valuetext", `radius ${exact.value}`);
    followers.forEach((follow) => follow());
  };
  slider.addEventListener("input", () => chooseRadius(Number(slider.value), slider));
  exact.addEventListener("input", () => exact.value !== "" && Number(exact.value) >= 0 && chooseRadius(Number(exact.value), exact));
  followers.push(() => readout.replaceChildren(...CERTIFIED.map((run, number) => {
    const { colour, dash } = STYLES[number % STYLES.length];
    const found = onCurve(run, looked.radius);
    const band = `${between(found)} %${run.missing ? " in the end" : ""}`;
    return make("li", {}, swatch(colour, dash),
      make("span", {}, run.name), make("span.share", {}, percent(found.share)), make("span.band", {}, band));
  })));
  const kinds = [...new Set(CERTIFIED.map((run) => run.curve.kind))].join(", or ");
  return section("curve", "Certified accuracy", `The share of images ${CERTIFIED.every((run) => run.labelled) ? "that are answered right" : "whose answer is certified, and right where there are labels"}, with at least this radius. ${CERTIFIED.length > BANDS ? "Below the chart is" : "The band is"} the ${kinds}; at one radius, not at all at once.`,
    curveChart(chooseRadius),
    make("div.at-radius", {}, make("label", { for: "radius" }, "At radius"), exact, slider), readout,
    RUNS.length > 1 || DATA.radii.length > 1 ? sideBySide() : null);
}

function confusion(run) {
  const holder = make("div");
  const follow = () => holder.replaceChildren(matrix(run));
  followers.push(follow);
  follow();
  return holder;
}

function matrix(run) {
  const { label, answer, radius } = run.rows;
  const at = run.certified ? looked.radius : 0;
  const cells = new Map();
  const open = new Map(); // not certified at this radius
  label.forEach((truth, row) => {
    const sure = answer[row] >= 0 && (!run.certified || radius[row] >= at);
    const [where, key] = sure ? [cells, `${truth},${answer[row]}`] : [open, truth];
    where.set(key, (where.get(key) || 0) + 1);
  });
  const classes = [...new Set([...label, ...answer.filter((each) => each >= 0)])].sort((a, b) => a - b);
  if (classes.length > MOST_CLASSES) return mistakes(run, cells);
  const most = Math.max(1, ...cells.values());
  const names = classes.map((each) => (run.names ? className(run, each) : String(each)));
  const head_ = make(run.names ? "thead" : "thead.short", {}, make("tr", {}, make("td", {}), [...names, run.certified ? "not certified" : "abstains"].map((name) => make("th", { scope: "col" }, make("span", {}, name)))));
  const body = classes.map((truth, i) => make("tr", {}, make("th", { scope: "row" }, names[i]),
    classes.map((said) => {
      const got = cells.get(`${truth},${said}`) || 0;
      const colour = truth === said ? "--accent" : "--ink";
      return make(got ? "td" : "td.zero", { style: got ? `background:color-mix(in srgb, var(${colour}) ${Math.round(12 + (33 * got) / most)}%, var(--paper))` : null }, String(got));
    }), make(`td.open${open.get(truth) ? "" : ".zero"}`, {}, String(open.get(truth) || 0))));
  return scrolling("Confusion matrix", make("table.confusion", {}, make("caption.hidden", {}, "Rows: the label. Columns: the answer."), head_, make("tbody", {}, body)));
}

function mistakes(run, cells) {
  const wrong = [...cells].map(([key, got]) => [...key.split(",").map(Number), got]).filter(([truth, said]) => truth !== said).sort((a, b) => b[2] - a[2]).slice(0, 15);
  if (!wrong.length) return make("p.empty", {}, "No image has a wrong answer with that radius.");
  return make("table.wide", {}, make("caption", {}, "The most frequent wrong answers with that radius."), make("thead", {}, make("tr", {}, make("th.text", { scope: "col" }, "label"), make("th.text", { scope: "col" }, "answer"), make("th", { scope: "col" }, "images"))),
    make("tbody", {}, wrong.map(([truth, said, got]) => make("tr", {}, make("td.text", {}, className(run, truth)), make("td.text", {}, className(run, said)), make("td", {}, count(got))))));
}

/** Sections about one run, with a list to choose it from where there are several. */
function ofOneRun() {
  const holder = make("div");
  const runs = RUNS.filter((run) => !run.envelope);
  const kept = followers.length;
  const show = (run) => {
    looked.run = run;
    followers.length = kept;
    holder.replaceChildren(
      make("div.columns", {}, run.certified ? section("radii", "Radii", "How many images have which certified radius.", histogram(run)) : null, run.labelled ? section("confusion", "Confusion", run.certified ? "Labels against answers at the radius chosen above." : "Labels against answers.", confusion(run)) : null),
      section("images", "Images", run.certified ? "What the smoothed classifier answers, and up to which radius that cannot change." : "What the smoothed classifier answers.", gallery(run)));
  };
  show(runs[0]);
  if (runs.length < 2) return holder;
  const options = runs.map((run, number) => [String(number), run.name]);
  return make("div", {}, section("one", "One run at a time", "", make("div.bar", {}, select("Run", options, "0", (number) => show(runs[Number(number)])))), holder);
}

function pairsSection() {
  const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(1)}`;
  const byName = (name) => RUNS.find((run) => run.name === name);
  const blocks = DATA.pairs.map((pair, number) => {
    const title = make("h3", {}, `${pair.second} against ${pair.first}`);
    if (pair.said) return make("div.run", {}, title, make("p.warn", {}, `No paired differences: ${pair.said}.`));
    const rows = pair.at.map((each) => make("tr", {}, make("th.text", { scope: "row" }, short(each.radius)), [each.both, each.only_first, each.only_second].map((value) => make("td", {}, count(value))), make("td", {}, signed(each.estimate)), make("td", {}, `${signed(each.low)} to ${signed(each.high)}`)));
    const columns = ["certified by both", `only ${pair.first}`, `only ${pair.second}`, "difference", "95 % interval"];
    return make("div.run", {}, title, make("p.quiet", {}, `${plural(pair.images, "image")} in both. The radius of the right answer is larger in ${pair.second} on ${count(pair.larger)}, smaller on ${count(pair.smaller)}, equal on ${count(pair.equal)}.`),
      make("div.pairs", {}, scrolling(`${pair.second} against ${pair.first}`, make("table.wide", {}, make("thead", {}, make("tr", {}, make("th.text", { scope: "col" }, "at radius"), columns.map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, rows))),
        scatter(RUNS[0], RUNS[number + 1])));
  });
  return section("pairs", "Paired differences", "The same images in two runs: differences of certified accuracy in percentage points, with an interval for each radius by itself. Images that both runs certify, or neither, say nothing.", blocks);
}

function madeSection() {
  const runs = RUNS.filter((run) => !run.envelope);
  const titles = [...new Set(runs.flatMap((run) => run.assumptions.map(([name]) => name)))];
  const words = make("dl.words", {}, titles.map((title) => {
    const by = new Map(); // what is said of several runs alike is said once
    for (const run of runs) for (const [name, said] of run.assumptions) if (name === title) by.set(said, [...(by.get(said) || []), run.name]);
    const named = by.size > 1 || [...by.values()][0].length < runs.length;
    return make("div", {}, make("dt", {}, title), [...by].map(([said, names]) => make("dd", {}, named ? make("small", {}, names.join(", ")) : null, coded(said))));
  }));
  const blocks = runs.map((run) => make("div.run", {}, runs.length > 1 ? make("h3", {}, run.name) : null,
    make("details", { open: runs.length === 1 ? "" : null }, make("summary", {}, "What was certified with what"), factList(run.facts)),
    make("details", {}, make("summary", {}, "Notes of the report"), run.notes.map((said) => make("p.note", {}, said)))));
  const best = RUNS.filter((run) => run.envelope).map((run) => make("div.run", {}, make("h3", {}, run.name), make("p", {}, run.title)));
  return section("made", "What this rests on", "", words, blocks, best);
}

head();
if (RUNS.length === 1) main.append(figures(RUNS[0]));
if (CERTIFIED.length) main.append(curveSection());
else if (RUNS.length > 1) main.append(section("curve", "Runs side by side", "", sideBySide()));
main.append(ofOneRun());
if (DATA.pairs.length) main.append(pairsSection());
main.append(madeSection());
const TITLES = { curve: "Accuracy", radii: "Radii", confusion: "Confusion", images: "Images", pairs: "Paired differences", made: "What this rests on" };
if (CERTIFIED.length) chooseRadius(DATA.radii.find((radius) => radius > 0) || 0);
finish(Object.entries(TITLES));
