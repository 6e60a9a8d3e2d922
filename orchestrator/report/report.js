"use strict";
// Draws the charts with the colours of the page, and again whenever the reader changes between light and dark.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  function palette() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    const [low, high] = [channels(read("--scale-low")), channels(read("--accent"))];
    return (name) => {
      const step = /^--step-(\d)$/.exec(name);
      if (!step) return read(name);
      const share = 0.25 + (0.75 * Number(step[1])) / 9; // the worst is to be seen as well
      return `rgb(${low.map((from, i) => Math.round(from + share * (high[i] - from))).join(",")})`;
    };
  }

  function draw(chart, colour) {
    const text = document.querySelector(`script[data-for="${chart.id}"]`).textContent;
    const { data, layout } = JSON.parse(text.replace(/var\((--[a-z0-9-]+)\)/g, (_, name) => colour(name)));
    layout.autosize = true;
    layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
    const config = {
      responsive: true,
      displayModeBar: false,
    };
    return Plotly.react(chart, data, layout, config);
  }

  async function drawAll() {
    const colour = palette();
    for (const chart of document.querySelectorAll(".chart")) {
      await draw(chart, colour);
      await new Promise((resume) => setTimeout(resume));
    }
    document.documentElement.dataset.charts = "drawn";
  }

  dark.addEventListener("change", drawAll);
  drawAll();
})();
