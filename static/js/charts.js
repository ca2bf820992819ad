// Draws the charts of a page with Plotly, from the data in its application/json scripts. Colours are tokens, so that a
// change of theme redraws. A mark with an entry in `links` leads to the outputs behind it; a row with one in `pages`, to its page.
(() => {
  const token = (name) => {
    const probe = document.createElement("i");
    document.body.append(probe);
    probe.style.color = `var(--${name})`;
    const colour = getComputedStyle(probe).color;
    probe.remove();
    return colour;
  };
  const hover = (trace) => ({ text: trace.text, hovertemplate: "%{text}<extra></extra>" });
  const draw = {
    line: (t, c) => ({ type: "scatter", mode: "lines", x: t.x, y: t.y, line: { color: c, width: 1.5, dash: t.dash ? "dot" : "solid" }, hoverinfo: "skip" }), // a bubble on it is what is meant
    bubbles: (t, c) => ({
      type: "scatter", mode: "markers", x: t.x, y: t.y, ...hover(t),
      marker: { color: c, opacity: 0.55, size: t.size.map((share) => 4 + 26 * Math.sqrt(share)), line: { width: 0 } },
    }),
    dots: (t, c) => {
      const error = { type: "data", symmetric: false, array: t.high, arrayminus: t.low, color: c, thickness: 1.5, width: 4 };
      const place = t.vertical ? { x: t.at, y: t.value, error_y: error } : { x: t.value, y: t.at, error_x: error };
      return { type: "scatter", mode: "markers", ...place, ...hover(t), marker: { color: c, size: 8, symbol: t.color === "human" ? "diamond" : "circle" } };
    },
    heat: (t, c) => ({
      type: "heatmap", x: t.x, y: t.y, z: t.z, zmin: 0, zmax: 1, text: t.text, texttemplate: "%{text}", hovertext: t.hover, hovertemplate: "%{hovertext}<extra></extra>",
      colorscale: [0, 0.45].map((share, at) => [at, c.replace(/rgba?\(([^,]+,[^,]+,[^,)]+).*/, `rgba($1, ${share})`)]), textfont: { color: token("ink") },
      showscale: false, xgap: 2, ygap: 2,
    }),
  };

  function axis(spec, colours, size, isRow) {
    return {
      title: { text: spec.title || "", standoff: 8, font: { size } }, range: spec.range, tickformat: spec.percent ? ".0%" : undefined, automargin: true,
      color: colours.muted, gridcolor: colours.line, linecolor: colours.line, zeroline: false, fixedrange: true,
      ...(isRow ? { type: "category", showgrid: false, tickfont: { color: colours.ink } } : {}),
    };
  }

  function mount(place) {
    const source = document.getElementById(place.dataset.chart);
    if (!source || !window.Plotly) return;
    const chart = JSON.parse(source.textContent);
    const colours = Object.fromEntries(["ink", "muted", "line", "judge", "human", "pass", "fail", "unsure"].map((name) => [name, token(name)]));
    const traces = chart.traces.map((t) => ({ name: t.name, showlegend: Boolean(t.name), ...draw[t.kind](t, colours[t.color]) }));
    const rows = chart.y.rows;
    const style = getComputedStyle(document.body);
    const size = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const isGrouped = Boolean(chart.grouped); // several dots in a row, one below the other
    if (isGrouped) traces.forEach((trace, at) => Object.assign(trace, { orientation: "h", offsetgroup: String(at), alignmentgroup: "rows" }));
    const height = rows ? (5.5 + 1.75 * rows + (chart.traces.length > 1 ? 1.5 : 0)) * size : 22 * size;
    place.style.height = `${height}px`;
    Plotly.react(place, traces, {
      height, scattermode: isGrouped ? "group" : "overlay", scattergap: 0.4,
      margin: { l: 3.5 * size, r: size, t: 0.75 * size, b: 3 * size },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: false,
      font: { family: style.fontFamily, size: 0.78 * size, color: colours.muted },
      hoverlabel: { bgcolor: token("surface"), bordercolor: colours.line, font: { color: colours.ink } },
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", font: { color: colours.ink } },
      xaxis: { ...axis(chart.x, colours, 0.8 * size, Boolean(chart.x.columns)), ...(chart.zero ? { zeroline: true, zerolinecolor: colours.muted, rangemode: "tozero" } : {}) },
      yaxis: axis(chart.y, colours, 0.8 * size, Boolean(rows)),
      shapes: chart.band ? [{ type: "rect", layer: "below", yref: "paper", x0: chart.band[0], x1: chart.band[1], y0: 0, y1: 1, fillcolor: token("accent-soft"), line: { width: 0 } }] : [],
    }, { displayModeBar: false, responsive: true });
    if (place.dataset.mounted) return;
    place.dataset.mounted = "yes";
    place.on("plotly_click", ({ points: [point] }) => {
      const trace = chart.traces[point.curveNumber];
      if (trace.links) location.assign(`${chart.base}&${trace.links[point.pointIndex]}`);
      if (trace.pages) location.assign(`${chart.page}&criterion=${encodeURIComponent(trace.pages[point.pointIndex])}`);
    });
  }

  // One after the other, so that the page answers in between.
  const mountAll = (root) => {
    const places = [...root.querySelectorAll("[data-chart]")];
    const next = () => {
      const place = places.shift();
      if (place?.isConnected) mount(place);
      if (places.length) setTimeout(next);
    };
    next();
  };
  // A button saves the chart that it names as it is drawn, on the page's ground.
  document.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-save]");
    const place = button && document.querySelector(`[data-chart="${button.dataset.of}"]`);
    if (!place?.data) return;
    const { width, height } = place.getBoundingClientRect();
    const layout = { ...place.layout, paper_bgcolor: token("surface"), title: { text: button.dataset.title, x: 0, xref: "paper", font: { color: token("ink") } }, margin: { ...place.layout.margin, t: 64 } };
    const sized = { width: Math.max(720, width), height: height + 48 };
    Plotly.toImage({ data: place.data, layout }, { format: "svg", ...sized }).then((svg) => save(svg, button.dataset.save, button.dataset.file, sized));
  });
  // Plotly's own way to a PNG leads over a blob, which the content policy does not let in as an image.
  function save(svg, format, name, { width, height }) {
    const give = (href) => Object.assign(document.createElement("a"), { href, download: `${name}.${format}` }).click();
    if (format === "svg") return void give(svg);
    const image = Object.assign(new Image(), { src: svg });
    image.decode().then(() => {
      const canvas = Object.assign(document.createElement("canvas"), { width: 2 * width, height: 2 * height });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      give(canvas.toDataURL("image/png"));
    });
  }
  document.addEventListener("DOMContentLoaded", () => mountAll(document));
  document.addEventListener("htmx:load", ({ detail }) => detail.elt !== document.body && mountAll(detail.elt.parentElement || document));
  new MutationObserver(() => mountAll(document)).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => mountAll(document));
})();
