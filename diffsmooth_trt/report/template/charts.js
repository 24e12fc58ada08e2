const BANDS = 4; // runs whose bands one can still tell apart

/** Redraw a chart whenever its width changes. */
function fitted(holder, drawn) {
  let width = 0;
  const fit = () => {
    if (holder.clientWidth && holder.clientWidth !== width) {
      width = holder.clientWidth;
      drawn(width);
    }
  };
  new ResizeObserver(fit).observe(holder);
  requestAnimationFrame(fit);
}

function reach() {
  return 1.08 * Math.max(...CERTIFIED.map((run) => run.curve.radius[run.curve.radius.length - 1]), 0.1);
}

/** The path of a run's steps; `values` are its shares, low or high ends. */
function stepped(run, values, x, y, most) {
  const steps = run.curve.radius;
  let path = `M${x(0).toFixed(1)},${y(values[0]).toFixed(1)}`;
  for (let i = 0; i < steps.length; i += 1) path += `H${x(Math.min(steps[i], most)).toFixed(1)}V${y(values[i + 1]).toFixed(1)}`;
  return `${path}H${x(most).toFixed(1)}`;
}

function banded(run, x, y, most) {
  const { radius, low, high } = run.curve;
  let back = `L${x(most).toFixed(1)},${y(low[low.length - 1]).toFixed(1)}`;
  for (let i = radius.length - 1; i >= 0; i -= 1) back += `H${x(Math.min(radius[i], most)).toFixed(1)}V${y(low[i]).toFixed(1)}`;
  return `${stepped(run, high, x, y, most)}${back}H${x(0).toFixed(1)}Z`;
}

/** Certified accuracy against the radius, all runs. */
function curveChart(choose) {
  const holder = make("div.chart");
  const space = new Set(CERTIFIED.map((run) => run.space));
  const unit = space.size === 1 ? `ℓ2 radius in ${[...space][0]}` : "ℓ2 radius, each run's in its own space";
  const said = CERTIFIED.map((run) => `${run.name}: ${DATA.radii.map((r, i) => `${run.shares[i]} at ${short(r)}`).join(", ")}`);
  let follow = () => {};
  fitted(holder, (width) => {
    const height = Math.round(Math.min(420, Math.max(250, width * 0.46)));
    const [left, right, top, bottom] = [38, 12, 12, 46];
    const most = reach();
    const x = (radius) => left + ((width - left - right) * radius) / most;
    const y = (share) => top + ((height - top - bottom) * (100 - share)) / 100;
    const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `Certified accuracy by radius. ${said.join(". ")}` });
    for (const share of [0, 25, 50, 75, 100]) {
      picture.append(draw("line", { class: share ? "grid" : "axis", x1: left, x2: width - right, y1: y(share), y2: y(share) }),
        draw("text", { x: left - 8, y: y(share) + 4, "text-anchor": "end" }, String(share)));
    }
    for (const radius of ticks(most, width > 600 ? 8 : 4))
      picture.append(draw("line", { class: "axis", x1: x(radius), x2: x(radius), y1: y(0), y2: y(0) + 5 }),
        draw("text", { x: x(radius), y: y(0) + 20, "text-anchor": "middle" }, short(radius)));
    picture.append(draw("text", { x: width - right, y: height - 6, "text-anchor": "end" }, unit),
      draw("text", { x: left, y: height - 6 }, "% of images"));
    if (CERTIFIED.length <= BANDS) CERTIFIED.forEach((run, number) => {
      const fill = `color-mix(in srgb, var(${STYLES[number % STYLES.length].colour}) ${[0, 15, 12][CERTIFIED.length] || 8}%, transparent)`;
      picture.append(draw("path", { d: banded(run, x, y, most), style: `fill:${fill}` }));
    });
    [...CERTIFIED.entries()].reverse().forEach(([number, run]) => {
      const { colour, dash } = STYLES[number % STYLES.length];
      picture.append(draw("path", { class: "line", d: stepped(run, run.curve.share, x, y, most), style: `stroke:var(${colour})`, "stroke-dasharray": dash || null }));
    });
    const marker = draw("g");
    picture.append(marker);
    follow = () => {
      const at = x(Math.min(looked.radius, most));
      marker.replaceChildren(draw("line", { class: "at", x1: at, x2: at, y1: top, y2: y(0) }),
        ...CERTIFIED.map((run, number) => draw("circle", { class: "dot", cx: at, cy: y(onCurve(run, looked.radius).share), r: 5.5, style: `fill:var(${STYLES[number % STYLES.length].colour})` })));
    };
    const point = (event) => {
      if (event.type === "pointermove" && event.pointerType === "touch") return;
      const box = picture.getBoundingClientRect();
      choose(Math.min(most, Math.max(0, ((event.clientX - box.left - left) / (width - left - right)) * most)));
    };
    picture.addEventListener("pointermove", point);
    picture.addEventListener("pointerdown", point);
    holder.replaceChildren(picture);
    follow();
  });
  followers.push(() => follow());
  return holder;
}

/** How many images have which radius, of one run. */
function histogram(run) {
  const holder = make("div.chart");
  const { radius } = run.rows;
  const most = Math.max(...radius.filter((_, row) => stateOf(run, row) !== "abstained"), 0.05);
  const edges = ticks(most, 16);
  const width0 = edges[1];
  const bins = Array.from({ length: Math.floor(most / width0 + 1e-9) + 1 }, () => ({ right: 0, wrong: 0 }));
  let abstained = 0;
  radius.forEach((each, row) => {
    const state = stateOf(run, row);
    if (state === "abstained") abstained += 1;
    else bins[Math.min(bins.length - 1, Math.floor(each / width0))][state] += 1;
  });
  const tallest = Math.max(abstained, ...bins.map((bin) => bin.right + bin.wrong), 1);
  const said = `${plural(abstained, "image")} without an answer; ${bins.map((bin, i) => `${bin.right + bin.wrong} from ${short(i * width0)}`).join(", ")}`;
  fitted(holder, (width) => {
    const height = 260;
    const [left, right, top, bottom] = [34, 6, 10, 44];
    const gap = 22; // between abstentions and radii
    const one = (width - left - right - gap) / (bins.length + 1);
    const y = (number) => top + ((height - top - bottom) * (tallest - number)) / tallest;
    const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `Images by radius: ${said}` });
    for (const number of ticks(tallest, 4).filter((each) => Number.isInteger(each)))
      picture.append(draw("line", { class: number ? "grid" : "axis", x1: left, x2: width - right, y1: y(number), y2: y(number) }),
        draw("text", { x: left - 8, y: y(number) + 4, "text-anchor": "end" }, count(number)));
    const bar = (kind, from, number, below, said_) => number && picture.append(
      draw("rect", { class: `bar-${kind}`, x: from + 1, width: Math.max(1, one - 2), y: y(below + number), height: y(below) - y(below + number) }, draw("title", {}, said_)));
    bar("none", left, abstained, 0, `${plural(abstained, "image")}: no answer`);
    bins.forEach((bin, i) => {
      const from = left + one + gap + i * one;
      const span = `radius ${short(i * width0)} to ${short((i + 1) * width0)}`;
      bar("right", from, bin.right, 0, `${plural(bin.right, "image")} right, ${span}`);
      bar("wrong", from, bin.wrong, bin.right, `${plural(bin.wrong, "image")} wrong, ${span}`);
    });
    const every = Math.ceil(bins.length / (width > 480 ? 8 : 5));
    for (let i = 0; i <= bins.length; i += every)
      picture.append(draw("text", { x: left + one + gap + i * one, y: y(0) + 18, "text-anchor": "middle" }, short(i * width0)));
    picture.append(draw("text", { x: left, y: y(0) + 18 }, "none"), draw("text", { x: width - right, y: height - 4, "text-anchor": "end" }, "ℓ2 radius"),
      draw("text", { x: left, y: height - 4 }, "images"));
    holder.replaceChildren(picture);
  });
  const key = (kind, text) => make("span", {}, make(`span.key.${kind}`), text);
  return make("div", {}, holder, make("p.legend", {}, key("right", "right"), key("wrong", "wrong"), key("none", "abstained")));
}

/** The radius of each image in two runs. */
function scatter(first, second) {
  const holder = make("div.chart");
  const rowOf = new Map(first.rows.image.map((image, row) => [image, row]));
  const points = second.rows.image.map((image, row) => [rowOf.get(image), row]).filter(([row]) => row !== undefined);
  const radius = (run, row) => (stateOf(run, row) === "right" ? run.rows.radius[row] : 0);
  const most = Math.max(0.05, ...points.map(([a, b]) => Math.max(radius(first, a), radius(second, b)))) * 1.05;
  fitted(holder, (width) => {
    const size = Math.min(width, 420);
    const [left, right, top, bottom] = [40, 8, 8, 44];
    const x = (value) => left + ((size - left - right) * value) / most;
    const y = (value) => size - bottom - ((size - top - bottom) * value) / most;
    const picture = draw("svg", { viewBox: `0 0 ${size} ${size}`, height: size, style: `max-width:${size}px`, role: "img", "aria-label": `Radius of each image in ${second.name} against that in ${first.name}; the numbers are in the table.` });
    for (const tick of ticks(most, 4))
      picture.append(draw("line", { class: tick ? "grid" : "axis", x1: left, x2: size - right, y1: y(tick), y2: y(tick) }), draw("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, short(tick)),
        draw("text", { x: x(tick), y: size - bottom + 18, "text-anchor": "middle" }, short(tick)));
    picture.append(draw("line", { class: "at", x1: x(0), y1: y(0), x2: x(most), y2: y(most) }));
    for (const [a, b] of points)
      picture.append(draw("circle", { cx: x(radius(first, a)), cy: y(radius(second, b)), r: 3, style: "fill:var(--accent);fill-opacity:.45" }, draw("title", {}, `image ${first.rows.image[a]}`)));
    picture.append(draw("text", { x: size - right, y: size - 6, "text-anchor": "end" }, `radius in ${first.name}`.slice(0, 44)), draw("text", { x: left + 6, y: top + 10 }, `radius in ${second.name}`.slice(0, 44)));
    holder.replaceChildren(picture);
  });
  return holder;
}
