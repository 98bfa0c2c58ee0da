"use strict";
// Draws the curves and the sample table from the JSON in #page-data.
// Text from data is only ever set as textContent, never as markup.
(function () {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const byId = (id) => document.getElementById(id);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const PAGE_ROWS = 40;

  // ---- curves ---------------------------------------------------------------------------
  const { css, color, escapeLabel } = drawing;

  function points(metric) {
    const x = [], y = [];
    (page.metrics[metric] || []).forEach((value, index) => {
      // A gap only where a value was not finite between others, not where none was logged.
      if (value !== null) { x.push(page.steps[index]); y.push(value); }
    });
    return { x, y };
  }

  function lineTraces(chart) {
    const traces = [];
    if (chart.band) {
      const [low, high] = chart.band.map(points);
      const edge = { mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
      traces.push({ ...low, ...edge });
      traces.push({ ...high, ...edge, fill: "tonexty", fillcolor: color(0) + "22" });
    }
    chart.series.forEach((series, index) => {
      const data = points(series.metric);
      traces.push({
        ...data,
        name: escapeLabel(series.label),
        mode: data.x.length <= 40 ? "lines+markers" : "lines",
        line: { color: color(index), width: 2.25 },
        marker: { color: color(index), size: 6 },
        hovertemplate: "%{y:.4~g}<extra>" + escapeLabel(series.label) + "</extra>",
      });
    });
    return traces;
  }

  function barTraces(chart) {
    const unit = chart.unit.startsWith("seconds") ? " s" : "";
    return chart.series.map((series, index) => ({
      ...points(series.metric),
      type: "bar",
      name: escapeLabel(series.label),
      marker: { color: color(index) },
      hovertemplate: "%{y:.3~g}" + unit + "<extra>" + escapeLabel(series.label) + "</extra>",
    }));
  }

  function layout(chart) {
    const values = chart.series.flatMap((series) => points(series.metric).y);
    return drawing.layout(chart, { x: page.steps, y: values });
  }

  function summary(chart) {
    return chart.series.map((series) => {
      const data = points(series.metric), last = data.x.length - 1;
      if (last < 0) return series.label;
      return `${series.label}: ${data.y[0]} at step ${data.x[0]}, ${data.y[last]} at step ${data.x[last]}`;
    }).join("; ");
  }

  function draw(chart) {
    const node = byId("chart-" + chart.name);
    const traces = chart.kind === "bars" ? barTraces(chart) : lineTraces(chart);
    node.setAttribute("aria-label", (chart.title || "") + ": " + summary(chart));
    Plotly.react(node, traces, layout(chart), { displayModeBar: false, responsive: true });
    if (!node.dataset.listens) {
      node.dataset.listens = "yes";
      node.on("plotly_click", (event) => showStep(event.points[0].x));
    }
  }

  function anyChart() {
    const metric = byId("any-metric").value;
    return { name: "any", title: metric, kind: "line", series: [{ metric, label: metric }] };
  }

  function drawAll() {
    if (!page.charts.length) return;
    page.charts.forEach(draw);
    draw(anyChart());
  }

  if (page.charts.length) {
    drawAll();
    dark.addEventListener("change", drawAll);
    byId("any-metric").addEventListener("change", () => draw(anyChart()));
  }

  // ---- where the time went --------------------------------------------------------------
  const QUIET = { run: "--none-soft", wait: "--line" };  // kinds that are no work

  // Lanes lie below each other; a lane with many rows is higher, up to a limit.
  function laneBands(lanes) {
    let top = 0;
    return lanes.map((lane) => {
      const height = 0.8 + Math.min(lane.rows - 1, 12) * 0.25;
      const band = { top, height, row: height / lane.rows };
      top += height + 0.3;
      return band;
    });
  }

  function spanTraces(timeline, bands) {
    const least = (timeline.end_s - timeline.start_s) / 1200;  // what is shorter is drawn so long
    return timeline.kinds.map((kind, index) => {
      const spans = timeline.spans.filter((span) => span[2] === index);
      const label = escapeLabel(kind);
      return {
        type: "bar",
        orientation: "h",
        name: label,
        showlegend: kind !== "run",
        base: spans.map((span) => span[3]),
        x: spans.map((span) => Math.max(span[4], least)),
        y: spans.map(([lane, row]) => bands[lane].top + (row + 0.5) * bands[lane].row),
        width: spans.map(([lane]) => bands[lane].row * 0.92),
        customdata: spans.map((span) => [
          escapeLabel(timeline.lanes[span[0]].name), escapeLabel(span[5]),
          span[4].toPrecision(3), span[6] ? "<br>" + escapeLabel(span[6]) : "",
        ]),
        text: spans.map((span) => (kind === "run" ? escapeLabel(span[5]) : "")),
        textposition: "inside",
        insidetextanchor: "middle",
        textangle: 0,
        marker: {
          color: QUIET[kind] ? css(QUIET[kind]) : color(index),
          line: { color: css("--surface"), width: kind === "run" ? 2 : 0 },
        },
        hovertemplate: "<b>%{customdata[1]}</b> %{customdata[2]} s" +
          "%{customdata[3]}<extra>%{customdata[0]}</extra>",
      };
    });
  }

  function laneText(lane) {
    const busy = lane.busy === null ? "" : ` · ${Math.round(100 * lane.busy)} %`;
    return escapeLabel(lane.name) + busy;
  }

  function drawTimeline() {
    const node = byId("timeline-plot"), timeline = page.timeline;
    const bands = laneBands(timeline.lanes), last = bands[bands.length - 1];
    const whole = layout({ kind: "bars", series: [], legend: true });
    Object.assign(whole, { barmode: "overlay", hovermode: "closest" });
    Object.assign(whole.xaxis, {
      title: { text: "seconds of the run", standoff: 6, font: { size: 12 } },
      tickformat: "", range: [timeline.start_s, timeline.end_s], dtick: undefined, showgrid: true,
    });
    Object.assign(whole.yaxis, {
      tickmode: "array", tickvals: bands.map((band) => band.top + band.height / 2),
      ticktext: timeline.lanes.map(laneText), showgrid: false,
      range: [last.top + last.height + 0.1, -0.1],
    });
    node.style.height = `${90 + 30 * (last.top + last.height)}px`;
    const workers = timeline.lanes.filter((lane) => lane.busy !== null);
    node.setAttribute("aria-label", "Share of time busy: " + workers.map(laneText).join(", "));
    const options = { displayModeBar: false, responsive: true };
    Plotly.react(node, spanTraces(timeline, bands), whole, options);
  }

  if (page.timeline) {
    drawTimeline();
    dark.addEventListener("change", drawTimeline);
  }

  // ---- samples --------------------------------------------------------------------------
  const form = byId("filters");
  const steps = [...new Set(page.samples.map((each) => each.step))].sort((a, b) => a - b);
  let rows = PAGE_ROWS;

  function element(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function highlighted(node, text, query) {
    const lower = text.toLowerCase();
    let from = 0;
    for (let at; query && (at = lower.indexOf(query, from)) >= 0; from = at + query.length) {
      node.append(text.slice(from, at), element("mark", "", text.slice(at, at + query.length)));
    }
    node.append(text.slice(from));
    return node;
  }

  function pill(sample) {
    if (sample.reward === null) return element("span", "pill bad", "no verdict");
    const text = String(Number(sample.reward.toPrecision(4)));
    return element("span", sample.reward > 0 ? "pill good" : "pill", text);
  }

  const verdictValue = (each) => (each.error === null ? String(each.reward) : each.error);

  function verdictNode(each) {
    const node = element("div", "verdict", `${each.verifier}: ${verdictValue(each)}`);
    Object.entries(each.info).forEach(([key, value]) => {
      node.append(element("span", "info", `${key}: ${value}`));
    });
    return node;
  }

  function verdictList(sample) {
    const list = element("dd", "", sample.verdicts.length ? "" : "none");
    list.append(...sample.verdicts.map(verdictNode));
    return list;
  }

  // What a reward consists of, where it is more than one verdict.
  function parts(sample) {
    if (sample.verdicts.length < 2) return [];
    return sample.verdicts.map((each) => {
      const value = each.reward === null ? "–" : Number(each.reward.toPrecision(3));
      const node = element("div", "part", `${each.verifier} ${value}`);
      node.title = `${each.verifier}: ${verdictValue(each)}`;
      return node;
    });
  }

  function detailRow(sample, query) {
    const row = element("tr", "detail"), cell = element("td"), list = element("dl");
    cell.colSpan = 6;
    const add = (label, node) => list.append(element("dt", "", label), node);
    add("Prompt", highlighted(element("dd"), sample.prompt, query));
    add("Response", highlighted(element("dd"), sample.response, query));
    add("Verdicts", verdictList(sample));
    add("Ended by", element("dd", "", `${sample.finish} after ${sample.tokens} tokens`));
    add("Weights", element("dd", "", sample.versions.map((v) => `version ${v}`).join(", ") || "unknown"));
    add("Identity", element("dd", "mono", `uid ${sample.uid}, sample ${sample.sample}`));
    cell.append(list);
    row.append(cell);
    return row;
  }

  function sampleRow(sample, query) {
    const row = element("tr");
    const reward = element("td"), prompt = element("td"), response = element("td");
    reward.append(pill(sample), ...parts(sample));
    prompt.append(highlighted(element("div", "clip"), sample.prompt, query));
    response.append(highlighted(element("div", "clip"), sample.response, query));
    const tokens = element("td", "num", String(sample.tokens));
    if (sample.finish === "length") { tokens.textContent += " (cut)"; }
    const open = element("button", "", "Details");
    open.type = "button";
    open.setAttribute("aria-expanded", "false");
    open.addEventListener("click", () => {
      const isOpen = row.classList.toggle("open");
      open.setAttribute("aria-expanded", String(isOpen));
      open.textContent = isOpen ? "Close" : "Details";
      if (isOpen) row.after(detailRow(sample, query)); else row.nextSibling.remove();
    });
    const action = element("td", "num");
    action.append(open);
    row.append(element("td", "", String(sample.step)), reward, prompt, response, tokens, action);
    return row;
  }

  const limit = (text) => (text.trim() === "" || isNaN(Number(text)) ? null : Number(text));

  function matches(sample, want) {
    if (want.step !== "" && sample.step !== Number(want.step)) return false;
    if (want.finish !== "" && sample.finish !== want.finish) return false;
    const low = limit(want.min_reward), high = limit(want.max_reward);
    if ((low !== null || high !== null) && sample.reward === null) return false;
    if (low !== null && sample.reward < low) return false;
    if (high !== null && sample.reward > high) return false;
    const query = want.q.toLowerCase();
    return !query || [sample.prompt, sample.response, sample.uid]
      .some((text) => text.toLowerCase().includes(query));
  }

  const FIELDS = ["step", "min_reward", "max_reward", "finish", "q"];
  const wanted = () => Object.fromEntries(FIELDS.map((name) => [name, form.elements[name].value]));

  function drawSamples() {
    const want = wanted(), query = want.q.toLowerCase();
    const found = page.samples.filter((sample) => matches(sample, want));
    const body = document.querySelector("#sample-table tbody");
    body.replaceChildren(...found.slice(0, rows).map((sample) => sampleRow(sample, query)));
    if (!found.length) {
      const cell = element("td", "empty", "No sample matches these filters.");
      cell.colSpan = 6;
      const row = element("tr");
      row.append(cell);
      body.append(row);
    }
    const judged = found.filter((sample) => sample.reward !== null);
    const mean = judged.reduce((sum, sample) => sum + sample.reward, 0) / judged.length;
    byId("shown").textContent = `${found.length.toLocaleString("en")} of ` +
      `${page.samples.length.toLocaleString("en")} samples match` +
      (judged.length ? `, mean reward ${mean.toFixed(3)}` : "");
    byId("more").hidden = found.length <= rows;
  }

  // The filters live in the address: #step=3&min_reward=1 can be kept and shared.
  function readAddress() {
    const hash = location.hash.slice(1);
    if (hash && !hash.includes("=")) return;
    const want = new URLSearchParams(hash);
    FIELDS.forEach((name) => { form.elements[name].value = want.get(name) || ""; });
  }

  function writeAddress() {
    const kept = Object.entries(wanted()).filter(([, value]) => value !== "");
    history.replaceState(null, "", "#" + (new URLSearchParams(kept).toString() || "samples"));
  }

  function refilter() { rows = PAGE_ROWS; writeAddress(); drawSamples(); }

  function showStep(step) {
    if (!form || !steps.length) return;
    const nearest = steps.reduce((a, b) => (Math.abs(b - step) < Math.abs(a - step) ? b : a));
    form.elements.step.value = String(nearest);
    refilter();
    byId("samples").scrollIntoView();
  }

  if (form) {
    const option = (value) => new Option(String(value), String(value));
    steps.forEach((step) => form.elements.step.add(option(step)));
    [...new Set(page.samples.map((each) => each.finish))].sort()
      .forEach((finish) => form.elements.finish.add(option(finish)));
    readAddress();
    drawSamples();
    if (location.hash.includes("=")) byId("samples").scrollIntoView({ behavior: "instant" });
    form.addEventListener("input", refilter);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(refilter));
    byId("more").addEventListener("click", () => { rows += PAGE_ROWS; drawSamples(); });
    window.addEventListener("hashchange", () => { readAddress(); drawSamples(); });
  }
  // ---- training examples ----------------------------------------------------------------
  const exampleForm = byId("example-filters");

  function filterExamples() {
    const { source, q } = exampleForm.elements, query = q.value.toLowerCase();
    const all = [...document.querySelectorAll(".example")];
    all.forEach((each) => {
      const apart = source.value !== "" && each.dataset.source !== source.value;
      each.hidden = apart || !each.textContent.toLowerCase().includes(query);
    });
    const shown = all.filter((each) => !each.hidden).length;
    byId("examples-shown").textContent = `${shown} of ${all.length} examples match`;
  }

  if (exampleForm) {
    exampleForm.addEventListener("input", filterExamples);
    exampleForm.addEventListener("submit", (event) => event.preventDefault());
    exampleForm.addEventListener("reset", () => setTimeout(filterExamples));
  }
  document.documentElement.dataset.ready = "yes";
})();
