// Draws the figures of the report from the numbers in #data. Every figure takes its colours from the
// style sheet, so light, dark and print are decided in one place.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const hidden = { arm: new Set(), loss: new Set() };
  const drawn = new Set();
  const touch = matchMedia("(pointer: coarse)").matches;

  // -- words and colours ---------------------------------------------------------------------------------

  // Plotly reads a little HTML in every text; names are not HTML.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  // Names of tasks often differ at their ends only, so the middle goes.
  function short(text, most) {
    const [first, second] = text.split(" · ");
    if (text.length <= most) return text;
    if (second !== undefined) return short(first, (most - 3) >> 1) + " · " + short(second, (most - 3) >> 1);
    const end = Math.max(1, (most - 1) >> 1);
    return text.slice(0, Math.max(1, most - 1 - end)) + "…" + text.slice(-end);
  }

  function theme() {
    const style = getComputedStyle(root);
    const read = (name) => style.getPropertyValue("--" + name).trim();
    return {
      ink: read("ink"), muted: read("muted"), grid: read("grid"), line: read("line"),
      paper: read("paper"), raised: read("raised"),
      negative: read("negative"), neutral: read("neutral"), positive: read("positive"),
      hue: (number) => (number < 0 ? read("ink") : read("hue-" + number)),
    };
  }

  function faded(colour, alpha) {
    const value = parseInt(colour.slice(1), 16);
    return `rgba(${value >> 16}, ${(value >> 8) & 255}, ${value & 255}, ${alpha})`;
  }

  function layout(colours, height, more) {
    const axis = {
      gridcolor: colours.grid, linecolor: colours.line, zerolinecolor: colours.line,
      tickcolor: colours.line, automargin: true, ticks: "outside", ticklen: 4,
      title: { font: { size: 12 }, standoff: 8 }, tickfont: { size: 11 },
    };
    const { xaxis, yaxis, ...rest } = more;
    return {
      height,
      autosize: true,
      margin: { l: 8, r: 10, t: 6, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, color: colours.muted, size: 12 },
      showlegend: false,
      dragmode: touch ? false : "zoom",
      hoverlabel: { bgcolor: colours.raised, bordercolor: colours.line, font: { color: colours.ink, size: 12 }, namelength: 30 },
      xaxis: { ...axis, showgrid: false, ...xaxis },
      yaxis: { ...axis, ...yaxis },
      ...rest,
    };
  }

  const settings = {
    responsive: true,
    displaylogo: false,
    displayModeBar: false,
  };

  const stroke = (style, colours) => ({
    color: colours.hue(style.hue), dash: style.dash, width: style.hue < 0 ? 2.6 : 1.9,
  });

  // Markers tell lines apart without colour; a handful of them is enough.
  function sparse(x) {
    const every = Math.max(1, Math.ceil(x.length / 6));
    return x.map((_, index) => (index % every === every - 1 || x.length === 1 ? 1 : 0));
  }

  const marker = (style, x, colours) => ({
    symbol: style.symbol, size: sparse(x).map((shown) => shown * 7), color: colours.hue(style.hue),
    line: { width: 0 }, opacity: 1,
  });

  // -- the four kinds of figure --------------------------------------------------------------------------

  // With two seeds the intervals are many times wider than the curves: the curves decide what is seen.
  function around(lines) {
    const all = (key) => lines.flatMap((line) => line[key]).filter((value) => value !== null);
    const [low, high] = [Math.min(...all("y")), Math.max(...all("y"))];
    const room = 0.5 * (high - low) || 0.05 * Math.abs(high) || 1;
    const bottom = Math.max(low - room, Math.min(low, ...all("low")));
    const top = Math.min(high + room, Math.max(high, ...all("high")));
    const edge = 0.05 * (top - bottom || 2 * room);
    return [bottom - edge, top + edge];
  }

  function curves(panel, colours) {
    const traces = [];
    for (const line of panel.lines) {
      const arm = data.arms[line.arm];
      const shown = !hidden.arm.has(line.arm);
      const inside = line.x.map((_, i) => i).filter((i) => line.low[i] !== null && line.high[i] !== null);
      if (inside.length > 1) {
        const back = inside.slice().reverse();
        traces.push({
          x: inside.concat(back).map((i) => line.x[i]),
          y: inside.map((i) => line.high[i]).concat(back.map((i) => line.low[i])),
          fill: "toself", fillcolor: faded(colours.hue(arm.hue), panel.lines.length > 8 ? 0.06 : 0.12),
          line: { width: 0 }, mode: "lines", hoverinfo: "skip", meta: line.arm, visible: shown,
        });
      }
      traces.push({
        x: line.x, y: line.y, name: plain(arm.name), mode: "lines+markers",
        line: stroke(arm, colours), marker: marker(arm, line.x, colours), meta: line.arm, visible: shown,
        customdata: line.x.map((_, i) => (line.low[i] === null ? "" :
          ` (${Number(line.low[i].toPrecision(3))} to ${Number(line.high[i].toPrecision(3))})`)),
        hovertemplate: "epoch %{x}: %{y:.4~g}%{customdata}",
      });
    }
    return [traces, layout(colours, 260, {
      hovermode: "closest",
      xaxis: { title: { text: "epoch", standoff: 6, font: { size: 12 } }, rangemode: "tozero",
        dtick: Math.max(...panel.lines.map((line) => line.x[line.x.length - 1])) <= 10 ? 1 : undefined },
      yaxis: { nticks: 7, range: around(panel.lines) },
    })];
  }

  function rows(figure, colours) {
    const list = figure.rows;
    const place = list.map((_, index) => list.length - 1 - index);
    const traces = [];
    list.forEach((row, index) => {
      const arm = data.arms[row.arm];
      const colour = colours.hue(arm.hue);
      traces.push({
        x: row.points, y: row.points.map(() => place[index] + 0.24), mode: "markers",
        marker: { color: faded(colour, 0.45), size: 6, symbol: "line-ns-open", line: { width: 1.5 } },
        hovertemplate: `${plain(arm.name)}, one seed: %{x:${figure.format}}<extra></extra>`,
      });
      traces.push({
        x: [row.mid], y: [place[index]], mode: "markers",
        marker: { color: colour, size: 10, symbol: arm.symbol },
        error_x: row.low === null ? undefined :
          { type: "data", symmetric: false, array: [row.high - row.mid], arrayminus: [row.mid - row.low], color: colour, thickness: 2, width: 5 },
        hovertemplate: `${plain(arm.name)}: %{x:${figure.format}}<extra></extra>`,
      });
    });
    return [traces, layout(colours, 62 + 34 * list.length, {
      hovermode: "closest",
      shapes: [{ type: "line", x0: figure.reference, x1: figure.reference, yref: "paper", y0: 0, y1: 1,
        line: { color: colours.ink, width: 1.2, dash: "dot" }, layer: "below" }],
      xaxis: { title: { text: figure.title, standoff: 8, font: { size: 12 } }, showgrid: true, tickformat: figure.ticks, zeroline: false },
      yaxis: {
        tickmode: "array", tickvals: place, range: [-0.6, list.length - 0.4], showgrid: false, zeroline: false,
        ticktext: list.map((row) => plain(short(data.arms[row.arm].name, 24))), ticks: "", tickfont: { size: 12, color: colours.ink },
      },
    })];
  }

  function lines(panel, colours, options) {
    const traces = panel.values.map((values, index) => {
      const loss = data.losses[index];
      return {
        x: panel.x, y: values, name: plain(loss.name), mode: "lines+markers", connectgaps: true,
        line: stroke(loss, colours), marker: marker(loss, panel.x, colours), meta: index,
        visible: !hidden.loss.has(index), hovertemplate: "step %{x}: %{y:.4~g}",
      };
    });
    return [traces, layout(colours, 230, {
      hovermode: "closest",
      xaxis: { title: { text: "step", standoff: 6, font: { size: 12 } }, rangemode: "tozero" },
      yaxis: options.log
        ? { type: "log", dtick: decades(panel.values) > 2.5 ? 1 : "D2", tickformat: ".1~g" }
        : { nticks: 6 },
    })];
  }

  function decades(values) {
    const positive = values.flat().filter((value) => value > 0);
    return positive.length ? Math.log10(Math.max(...positive) / Math.min(...positive)) : 0;
  }

  function heat(panel, colours, options) {
    const width = options.element.clientWidth || 320;
    const most = Math.max(10, Math.floor(width / 18));
    const log = options.log;
    const z = log ? panel.values.map((row) => row.map((v) => (v > 0 ? Math.log10(v) : null))) : panel.values;
    const diverging = options.diverging;
    const count = panel.rows.length;
    const size = count > 20 ? 12 : 20;
    const trace = {
      type: "heatmap", x: panel.x, y: panel.rows.map((_, index) => index), z,
      text: panel.rows.map((name) => panel.x.map(() => plain(name))),
      customdata: panel.values,
      hovertemplate: `%{text}<br>step %{x}<br>${options.quantity} %{customdata:.3~g}<extra></extra>`,
      hoverongaps: false, showscale: !diverging, ygap: count > 1 ? 1 : 0,
    };
    if (diverging) {
      Object.assign(trace, { zmin: -1, zmax: 1, zmid: 0,
        colorscale: [[0, colours.negative], [0.5, colours.neutral], [1, colours.positive]] });
    } else {
      const low = Math.floor(Math.min(...z.flat().filter((v) => v !== null)));
      const high = Math.ceil(Math.max(...z.flat().filter((v) => v !== null)));
      trace.colorscale = "Cividis";
      trace.colorbar = { thickness: 8, outlinewidth: 0, tickfont: { size: 10 }, xpad: 4, nticks: 5 };
      if (log) {
        const ticks = Array.from({ length: high - low + 1 }, (_, i) => low + i);
        Object.assign(trace.colorbar, { tickvals: ticks, ticktext: ticks.map((v) => `10<sup>${v}</sup>`) });
      }
    }
    return [[trace], layout(colours, 56 + size * Math.max(count, 2), {
      xaxis: { title: { text: "step", standoff: 6, font: { size: 12 } } },
      yaxis: {
        autorange: "reversed", showgrid: false, zeroline: false, ticks: "",
        tickmode: "array", tickvals: panel.rows.map((_, index) => index),
        ticktext: panel.rows.map((name) => plain(short(name, most))), tickfont: { size: count > 20 ? 9 : 11 },
      },
    })];
  }

  function figure(element) {
    const colours = theme();
    const { kind, index } = element.dataset;
    const panel = data[kind][index || 0];
    const several = data.losses.length > data.lines_up_to;
    if (kind === "validation" || kind === "train") return curves(panel, colours);
    if (kind === "changes" || kind === "times") return rows(panel, colours);
    if (kind === "conflict") return heat(panel, colours, { element, diverging: true, quantity: "cosine" });
    const options = { element, log: kind === "norms", quantity: kind === "norms" ? "norm" : "weight" };
    return several ? heat(panel, colours, options) : lines(panel, colours, options);
  }

  function draw(element) {
    const [traces, page] = figure(element);
    drawn.add(element);
    return Plotly.react(element, traces, page, settings);
  }

  // -- legends -------------------------------------------------------------------------------------------

  function apply(kind) {
    for (const legend of document.querySelectorAll(`.legend[data-of="${kind}"]`)) {
      for (const button of legend.querySelectorAll("button[data-number]")) {
        button.setAttribute("aria-pressed", String(!hidden[kind].has(Number(button.dataset.number))));
      }
    }
    for (const element of drawn) {
      const follows = kind === "arm" ? ["validation", "train"] : ["weights", "norms"];
      if (!follows.includes(element.dataset.kind)) continue;
      const lined = element.data.filter((trace) => trace.type !== "heatmap");
      if (!lined.length) continue;
      Plotly.restyle(element, { visible: element.data.map((trace) => !hidden[kind].has(trace.meta)) });
    }
  }

  for (const legend of document.querySelectorAll(".legend")) {
    const kind = legend.dataset.of;
    const members = data[kind === "arm" ? "arms" : "losses"].map((_, number) => number);
    legend.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      if (button.dataset.number !== undefined) {
        const number = Number(button.dataset.number);
        if (!hidden[kind].delete(number)) hidden[kind].add(number);
      } else {
        hidden[kind] = new Set(hidden[kind].size ? [] : members);
      }
      apply(kind);
    });
  }

  // -- when to draw --------------------------------------------------------------------------------------

  const plots = [...document.querySelectorAll(".plot")];
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      if (!drawn.has(entry.target)) draw(entry.target);
    }
  }, { rootMargin: "400px" });
  plots.forEach((element) => near.observe(element));

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));

  const opened = [];
  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    for (const more of document.querySelectorAll("details:not([open])")) {
      more.open = true;
      opened.push(more);
    }
    for (const element of plots) {
      draw(element);
      const wide = element.closest(".wide") !== null;
      Plotly.relayout(element, { width: wide ? 660 : 330, autosize: false });
    }
  });
  addEventListener("afterprint", () => {
    root.classList.remove("printing");
    opened.splice(0).forEach((more) => { more.open = false; });
    for (const element of drawn) draw(element).then(() => Plotly.Plots.resize(element));
  });
})();
