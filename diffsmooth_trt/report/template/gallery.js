const CARDS = 60; // shown at once; the rest on demand
const ORDERS = {
  index: ["order of the data", (run) => (a, b) => a - b],
  large: ["largest radius", (run) => (a, b) => run.rows.radius[b] - run.rows.radius[a] || a - b],
  small: ["smallest radius", (run) => (a, b) => run.rows.radius[a] - run.rows.radius[b] || a - b],
  samples: ["most samples", (run) => (a, b) => run.rows.samples[b] - run.rows.samples[a] || a - b],
};

/** A run's images, to be sorted and filtered. */
function gallery(run) {
  const rows = run.rows.image.map((_, row) => row);
  const pictured = Object.keys(run.pictures).length > 0;
  const wanted = { state: "all", label: "all", order: "index", view: pictured ? "pictures" : "table", shown: CARDS };
  const body = make("div");
  const found = make("p.quiet", { role: "status" });
  const number = (state) => rows.filter((row) => stateOf(run, row) === state).length;
  const labels = [...new Set(run.rows.label)].sort((a, b) => a - b);
  const radii = run.certified;

  function show(focus = false) {
    const kept = rows.filter((row) => (wanted.state === "all" || stateOf(run, row) === wanted.state)
      && (wanted.label === "all" || run.rows.label[row] === Number(wanted.label))).sort(ORDERS[wanted.order][1](run));
    const part = kept.slice(0, wanted.shown);
    found.textContent = kept.length === rows.length ? plural(rows.length, "image") : `${count(kept.length)} of ${plural(rows.length, "image")}`;
    const shown = !kept.length ? make("p.empty", {}, "No image is like that.") : wanted.view === "pictures" ? cards(run, part) : table(run, part);
    const before = focus ? wanted.shown - CARDS : 0;
    const more = make("button.more", { type: "button", onclick: () => { wanted.shown += CARDS; show(true); } }, `Show ${count(Math.min(CARDS, kept.length - part.length))} more`);
    body.replaceChildren(shown, ...(part.length < kept.length ? [more] : []));
    if (focus) { // whoever pressed the button goes on at the first new image
      const next = body.querySelectorAll(".card, tbody tr")[before];
      if (next) { next.tabIndex = -1; next.focus({ preventScroll: true }); }
    }
  }
  const change = (name) => (value) => { wanted[name] = value; wanted.shown = CARDS; show(); };
  const states = [["all", "all", rows.length], ["right", radii ? "certified" : "right", number("right")], ["wrong", "wrong", number("wrong")], ["abstained", "abstained", number("abstained")]];
  const orders = Object.entries(ORDERS).filter(([name]) => radii || !["large", "small"].includes(name)).map(([name, [text]]) => [name, text]);
  const bar = make("div.bar", {}, choice("Answer", states, "all", change("state")),
    select("Class", [["all", "all classes"], ...labels.map((label) => [String(label), labelName(run, label)])], "all", change("label")),
    select("Sorted by", orders, "index", change("order")),
    pictured ? choice("Shown as", [["pictures", "pictures"], ["table", "table"]], "pictures", change("view")) : null);
  show();
  return make("div", {}, run.left_out.map((said) => make("p.note", {}, said[0].toUpperCase() + said.slice(1))), bar, found, body);
}

function cards(run, rows) {
  return make("ul.cards", {}, rows.map((row) => card(run, row)));
}

function card(run, row) {
  const { image, label, answer, shown, samples, votes, drawn } = run.rows;
  const state = stateOf(run, row);
  const pictures = run.pictures[image[row]] || [];
  const whats = ["image", "noisy", "denoised"];
  const figures = pictures.map((src, i) => make("figure", {},
    make("img", { src, alt: `Image ${image[row]}, ${labelName(run, label[row])}${i ? `, ${whats[i]}` : ""}`, onload: (event) => event.target.classList.toggle("coarse", event.target.naturalWidth < 65) }),
    pictures.length > 1 ? make("figcaption", {}, whats[i]) : null));
  const said = state === "abstained" ? "abstains" : className(run, answer[row]);
  const most = votes.length ? votes[row] : [];
  const strip = most.length ? make("div.votes", { "aria-hidden": "true" }, most.map(([each, got]) => make(each === label[row] ? "i.label" : "i", { style: `width:${(100 * got) / drawn[row]}%` }))) : null;
  const counted = most.length ? `${most.map((each) => voted(run, each)).join(", ")} of ${count(drawn[row])} votes` : plural(samples[row], "sample");
  const mark = state === "wrong" ? make("span.tag", {}, "wrong") : null;
  return make(`li.card${pictures.length > 1 ? ".noisy" : ""}`, { "data-state": state },
    make("div.pictures", {}, figures),
    make("p.head", {}, make("span.answer", { title: said }, said), run.certified && state !== "abstained" ? make("span.radius", { title: "certified ℓ2 radius" }, shown[row].slice(0, 5)) : null),
    strip,
    state === "right" ? null : make("p.meta", {}, mark, mark ? " " : null, `label ${labelName(run, label[row]).replace("class ", "")}`),
    make("p.meta", {}, counted),
    make("p.meta", {}, `image ${image[row]}`));
}

function table(run, rows) {
  const { image, label, answer, shown, samples, votes, drawn, decisions } = run.rows;
  const counted = votes.length > 0;
  const head = [["image"], ["label", "text"], ["answer", "text"], ["", "text"], ...(run.certified ? [["radius"]] : []), ...run.preset.map((radius) => [`≥ ${short(radius)}`, "text"]), ...(counted ? [["votes", "text"]] : []), ["samples"]];
  const names = { right: "right", wrong: "wrong", abstained: "abstained" };
  return scrolling("Table of images", make("table.wide", {},
    make("thead", {}, make("tr", {}, head.map(([name, kind]) => make(`th${kind ? `.${kind}` : ""}`, { scope: "col" }, name || make("span.hidden", {}, "outcome"))))),
    make("tbody", {}, rows.map((row) => {
      const state = stateOf(run, row);
      return make("tr", { "data-state": state }, make("td", {}, String(image[row])), make("td.text", {}, labelName(run, label[row])), make("td.text", {}, className(run, answer[row])),
        make("td.text", {}, state === "wrong" ? make("span.tag", {}, "wrong") : names[state]), run.certified ? make("td", {}, shown[row]) : null,
        (decisions[row] || []).map((said) => make("td.text", {}, said)),
        counted ? make("td.text", {}, votes[row].map((each) => voted(run, each)).join(", "), ` of ${count(drawn[row])}`) : null, make("td", {}, count(samples[row])));
    }))));
}
