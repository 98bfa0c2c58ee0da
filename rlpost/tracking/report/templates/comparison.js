"use strict";
// Ranks the runs and draws their curves from the JSON in #page-data.
// Text from data is only ever set as textContent, never as markup.
(function () {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const byId = (id) => document.getElementById(id);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const { css, color, escapeLabel } = drawing;
  const DASHES = ["solid", "dash", "dot", "dashdot"];  // ten colours each
  const order = byId("order"), axis = byId("axis");
  const GOOD = { done: "pill good", failed: "pill bad", refused: "pill bad" };

  // A run keeps its colour whatever ranks it.
  page.runs.forEach((run, index) => {
    run.color = index;
    run.dash = DASHES[Math.floor(index / 10) % DASHES.length];
    run.shown = true;
  });

  function element(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // ---- ranking --------------------------------------------------------------------------
  const metric = () => (order ? order.elements.metric.value : null);
  const finalOf = (run, name) => (name !== null && name in run.final ? run.final[name] : null);

  function ranked() {
    const name = metric(), sign = order && order.elements.lowest.checked ? 1 : -1;
    return [...page.runs].sort((a, b) => {
      const [x, y] = [finalOf(a, name), finalOf(b, name)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (x - y);
    });
  }

  function best(run, name) {
    const values = (run.metrics[name] || []).filter((value) => value !== null);
    if (!values.length) return "";
    const lowest = order.elements.lowest.checked;
    return short(lowest ? Math.min(...values) : Math.max(...values));
  }

  const short = (value) => String(Number(value.toPrecision(4)));

  function nameCell(run) {
    const cell = element("td"), swatch = element("span", "swatch");
    swatch.style.borderTopColor = color(run.color);
    swatch.style.borderTopStyle = run.dash === "solid" ? "solid" : "dashed";
    cell.append(swatch);
    if (run.report) {
      const link = element("a", "", run.name);
      link.href = run.report;
      cell.append(link);
    } else {
      cell.append(run.name);
    }
    if (run.note) cell.append(element("span", "note", run.note));
    return cell;
  }

  function rowOf(run, place, name) {
    const row = element("tr"), show = element("td"), box = element("input");
    const value = finalOf(run, name);
    box.type = "checkbox";
    box.checked = run.shown;
    box.setAttribute("aria-label", "Draw " + run.name);
    box.addEventListener("change", () => { run.shown = box.checked; drawAll(); });
    show.append(box, " " + (value === null ? "–" : place));
    const state = element("td");
    state.append(element("span", GOOD[run.state] || "pill", run.state));
    const steps = run.last_step === null ? "" : String(run.last_step) +
      (run.planned === null ? "" : " of " + run.planned);
    row.append(show, nameCell(run), state);
    page.differing.forEach((key) => row.append(element("td", "", run.settings[key] || "")));
    row.append(element("td", "num", value === null ? "" : short(value)));
    row.append(element("td", "num", name === null ? "" : best(run, name)));
    row.append(element("td", "num", steps));
    return row;
  }

  function drawRanking() {
    const name = metric();
    const titles = ["Rank", "Run", "State", ...page.differing, "Last", "Best", "Steps"];
    const head = document.querySelector("#ranking thead tr");
    head.replaceChildren(...titles.map((title, index) => {
      const cell = element("th", index > 2 + page.differing.length ? "num" : "", title);
      cell.scope = "col";
      return cell;
    }));
    const body = document.querySelector("#ranking tbody");
    body.replaceChildren(...ranked().map((run, index) => rowOf(run, index + 1, name)));
  }

  // ---- curves ---------------------------------------------------------------------------
  const byTime = () => axis.elements.x.value === "time";

  function points(run, name) {
    const x = [], y = [], times = run.metrics.time_s || [];
    (run.metrics[name] || []).forEach((value, index) => {
      if (value === null) return;
      x.push(byTime() ? times[index] / 60 : run.steps[index]);
      y.push(value);
    });
    return { x, y };
  }

  function draw(chart) {
    const node = byId("chart-" + chart.name);
    const shown = page.runs.filter((run) => run.shown && (run.metrics[chart.metric] || []).length);
    const curves = shown.map((run) => points(run, chart.metric));
    const traces = shown.map((run, index) => ({
      ...curves[index],
      name: escapeLabel(run.name),
      mode: curves[index].x.length <= 40 ? "lines+markers" : "lines",
      line: { color: color(run.color), width: 2, dash: run.dash },
      marker: { color: color(run.color), size: 5 },
      hovertemplate: "%{y:.4~g}<extra>" + escapeLabel(run.name) + "</extra>",
    }));
    const all = (key) => curves.flatMap((curve) => curve[key]);
    const layout = drawing.layout(chart, { x: all("x").sort((a, b) => a - b), y: all("y") });
    if (byTime()) {
      Object.assign(layout.xaxis, { title: { text: "minutes" }, hoverformat: ".1f", dtick: undefined });
    }
    const ends = shown.map((run, index) => {
      const curve = curves[index], last = curve.x.length - 1;
      return `${run.name}: ${curve.y[last]} at ${curve.x[last]}`;
    });
    node.setAttribute("aria-label", `${chart.title}: ${ends.join("; ")}`);
    Plotly.react(node, traces, layout, { displayModeBar: false, responsive: true });
  }

  function drawAll() {
    if (!order) return;
    page.charts.forEach(draw);
    byId("ranked-by").textContent = metric();
    draw({ name: "any", title: metric(), metric: metric() });
  }

  drawRanking();
  drawAll();
  dark.addEventListener("change", () => { drawRanking(); drawAll(); });
  if (order) {
    order.addEventListener("input", () => { drawRanking(); drawAll(); });
    axis.addEventListener("input", drawAll);
    [order, axis].forEach((form) => form.addEventListener("submit", (event) => event.preventDefault()));
  }
  document.documentElement.dataset.ready = "yes";
})();
