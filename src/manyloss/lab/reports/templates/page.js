// Plotly draws, zooms and tells values. This decides when a figure is drawn, and lets one legend speak
// for many figures.
(() => {
  "use strict";
  const hidden = new Set();
  const touch = matchMedia("(pointer: coarse)").matches;
  const figures = [...document.querySelectorAll(".plot")];
  const graph = (figure) => figure.querySelector(".js-plotly-plot");

  function show(figure) {
    const visible = graph(figure).data.map((trace) => !hidden.has(trace.legendgroup));
    Plotly.restyle(graph(figure), { visible });
  }

  function draw(figure) {
    const waiting = figure.querySelector("template");
    if (!waiting) return;
    waiting.replaceWith(document.importNode(waiting.content, true)); // this runs the figure's script
    if (touch) Plotly.relayout(graph(figure), { dragmode: false });
    if (hidden.size) show(figure);
  }

  const near = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target));
  }, { rootMargin: "400px" });
  figures.forEach((figure) => near.observe(figure));

  for (const legend of document.querySelectorAll(".legend")) {
    const groups = [...legend.querySelectorAll("button[data-group]")].map((each) => each.dataset.group);
    legend.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const some = groups.some((group) => hidden.has(group));
      const change = button.dataset.group === undefined ? groups : [button.dataset.group];
      const hide = button.dataset.group === undefined ? !some : !hidden.has(button.dataset.group);
      change.forEach((group) => (hide ? hidden.add(group) : hidden.delete(group)));
      for (const each of document.querySelectorAll("button[data-group]")) {
        each.setAttribute("aria-pressed", String(!hidden.has(each.dataset.group)));
      }
      figures.filter(graph).forEach(show);
    });
  }

  const opened = [];
  addEventListener("beforeprint", () => {
    for (const more of document.querySelectorAll("details:not([open])")) {
      more.open = true;
      opened.push(more);
    }
    for (const figure of figures) {
      draw(figure);
      Plotly.relayout(graph(figure), { width: figure.closest(".wide") ? 660 : 330 });
    }
  });
  addEventListener("afterprint", () => {
    opened.splice(0).forEach((more) => { more.open = false; });
    figures.filter(graph).forEach((figure) => Plotly.relayout(graph(figure), { width: null, autosize: true }));
  });
})();
