"use strict";
// What the pages' charts have in common: colours of the style sheet, axes, legends.
const drawing = (function () {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const color = (index) => css("--c" + ((index % 10) + 1));
  const escapeLabel = (text) =>
    text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  // data: all values along both axes.
  function layout(chart, data) {
    const axis = {
      gridcolor: css("--line"), zeroline: false, automargin: true, tickfont: { size: 12 },
      linecolor: css("--line"),
    };
    const x = data.x, whole = x.length ? x[x.length - 1] - x[0] : 0;
    const y = { ...axis, rangemode: chart.kind === "bars" ? "tozero" : "normal", nticks: 6 };
    const values = data.y;
    if (values.every((value) => value === 0)) y.range = [-0.02, 1.02];
    if (chart.range01) y.range = [-0.02, 1.02];
    if (chart.log_scale && values.every((value) => value > 0)) {
      const wide = Math.max(...values) / Math.min(...values) > 100;
      Object.assign(y, { type: "log", tickformat: ".0e", dtick: wide ? 1 : "D2" });
    }
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, color: css("--muted"), size: 12 },
      margin: { l: 44, r: 8, t: 8, b: 40 },
      barmode: "stack",
      bargap: 0.25,
      hovermode: "x unified",
      hoverlabel: {
        bgcolor: css("--surface"), bordercolor: css("--line"), font: { color: css("--text") },
      },
      showlegend: Boolean(chart.legend),
      legend: {
        traceorder: "normal", orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 },
      },
      xaxis: {
        ...axis, showgrid: false, title: { text: "step", standoff: 6, font: { size: 12 } },
        hoverformat: "d", tickformat: "d", ...(whole > 0 && whole <= 12 ? { dtick: 1 } : {}),
      },
      yaxis: y,
    };
  }

  return { css, color, escapeLabel, layout };
})();
