"use strict";
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: color("--line"), zerolinecolor: color("--line"), automargin: true };
    for (const chart of document.querySelectorAll(".chart")) {
      const figure = JSON.parse(chart.querySelector("script").textContent);
      const layout = figure.layout;
      delete layout.template;
      Object.assign(layout, {
        paper_bgcolor: "transparent",
        plot_bgcolor: "transparent",
        font: { color: color("--text"), family: "system-ui, sans-serif" },
        margin: { l: 60, r: 15, t: 15, b: 50 },
        legend: { orientation: "h", y: -0.25 },
        hovermode: "closest",
        hoverlabel: { namelength: -1 },
        xaxis: { ...axis, ...layout.xaxis },
        yaxis: { ...axis, ...layout.yaxis },
      });
      for (const trace of figure.data) {
        trace[trace.type === "bar" ? "marker" : "line"].color = color(`--curve-${trace.meta}`);
      }
      for (const shape of layout.shapes || []) shape.line.color = color("--text");
      const options = { responsive: true, displaylogo: false, displayModeBar: false };
      Plotly.react(chart.querySelector(".plot"), figure.data, layout, options);
    }
  };
  dark.addEventListener("change", draw);
  draw();
})();
