/* The page script of the book: draws the figures, gives them native controls, runs the side-by-side view.
   No dependency but Plotly, which is loaded only on pages that have figures. */
(() => {
  "use strict";
  const VENDOR = new URL("vendor/", document.currentScript.src).href;
  const SMALL = new Set(["scatter", "scatterpolar", "bar", "heatmap"]); // the traces in plotly-small.min.js
  const NARROW = 520; // px: a phone

  /** An element with properties and children; text is never parsed as HTML. */
  function make(tag, properties = {}, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  }

  /** A select with a label; `options` are [value, text] pairs or {label, options} groups. */
  function makeSelect(label, options) {
    const select = make("select");
    for (const entry of options) {
      if (Array.isArray(entry)) select.append(new Option(entry[1], entry[0]));
      else select.append(make("optgroup", { label: entry.label }, ...entry.options.map(([v, t]) => new Option(t, v))));
    }
    return [make("label", {}, make("span", { textContent: label }), select), select];
  }

  // ------------------------------------------------------------------------------------------------ figures

  /** The theme's colours, as the browser resolves them. */
  function themeColours() {
    const probe = document.body.appendChild(make("span", { hidden: true }));
    const read = (name) => {
      probe.style.color = `var(--pst-color-${name})`;
      return getComputedStyle(probe).color;
    };
    const colours = { ink: read("text-base"), soft: read("text-muted"), line: read("border"), ground: read("background") };
    probe.remove();
    return colours;
  }

  /** What a figure's layout takes from the theme. */
  function themed(layout) {
    const { ink, soft, line, ground } = themeColours();
    const update = {
      "font.color": ink, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      "hoverlabel.bgcolor": ground, "hoverlabel.bordercolor": soft, "hoverlabel.font.color": ink,
      "modebar.bgcolor": "rgba(0,0,0,0)", "modebar.color": soft, "modebar.activecolor": ink,
    };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) {
        Object.assign(update, { [`${key}.gridcolor`]: line, [`${key}.linecolor`]: soft, [`${key}.zerolinecolor`]: soft });
      } else if (/^polar\d*$/.test(key)) {
        update[`${key}.bgcolor`] = "rgba(0,0,0,0)";
        for (const axis of ["radialaxis", "angularaxis"]) {
          Object.assign(update, { [`${key}.${axis}.gridcolor`]: line, [`${key}.${axis}.linecolor`]: soft });
        }
      }
    }
    (layout.annotations || []).forEach((_, i) => { update[`annotations[${i}].font.color`] = soft; });
    return update;
  }

  /** Margins, type and height for the width at hand; the title has moved into the page. */
  function fitted(layout, width) {
    const phone = width < NARROW;
    const left = (layout.margin || {}).l || 60; // wide where the labels are words
    const top = (layout.xaxis || {}).side === "top" ? (phone ? 70 : 80) : 34;
    const rows = left > 60; // a row a method: no lower than its rows are legible
    return {
      height: rows ? layout.height : Math.min(layout.height || 450, Math.max(300, width * (layout.polar ? 0.92 : 1.1))),
      "font.size": phone ? 11 : 13,
      "margin.l": left * (phone ? 0.8 : 1), "margin.r": rows ? 24 : phone ? 38 : 60, "margin.t": top, "margin.b": phone ? 46 : 56,
    };
  }

  /** A copy with changes by path, as Plotly.relayout takes them: so a figure has its looks when it is drawn first. */
  function changed(layout, changes) {
    const copy = structuredClone(layout);
    for (const [path, value] of Object.entries(changes)) {
      const steps = path.match(/[^.[\]]+/g), last = steps.pop();
      steps.reduce((at, step) => (at[step] ??= {}), copy)[last] = value;
    }
    return copy;
  }

  function run(plot, step) {
    const args = structuredClone(step.args || []); // Plotly may keep and change what it is given
    if (step.method !== "skip") return Plotly[step.method || "restyle"](plot, ...args);
  }

  /** Plotly's menus and sliders cannot be reached by keyboard: the same steps, behind native controls. */
  function addControls(plot, box, menus, sliders) {
    for (const menu of menus) {
      const [label, select] = makeSelect(menu.name || "Show", menu.buttons.map((b, i) => [i, b.label]));
      select.value = String(menu.active || 0);
      select.addEventListener("change", () => run(plot, menu.buttons[select.value]));
      box.append(label);
    }
    for (const slider of sliders) {
      const name = ((slider.currentvalue || {}).prefix || slider.name || "Step").replace(/[\s:=]+$/, "");
      const value = make("output");
      const input = make("input", { type: "range", min: 0, max: slider.steps.length - 1, step: 1 });
      const tell = () => {
        value.textContent = slider.steps[input.value].label;
        input.setAttribute("aria-valuetext", value.textContent);
      };
      input.value = slider.active || 0;
      input.addEventListener("input", () => { tell(); run(plot, slider.steps[input.value]); });
      tell();
      box.append(make("label", {}, make("span", { textContent: name }), input, value));
    }
  }

  /** The legend as buttons, with the marks that Plotly drew for its own. */
  function addLegend(plot, box) {
    const drawn = [...plot.querySelectorAll(".legend .traces")];
    const named = plot.data.map((trace, i) => [trace, i]).filter(([trace]) => trace.showlegend !== false);
    const keys = named.map(([trace, i], place) => {
      const button = make("button", { type: "button" });
      button.setAttribute("aria-pressed", String(trace.visible !== "legendonly"));
      const mark = drawn[place] && drawn[place].querySelector(".layers");
      if (mark) {
        const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        for (const [k, v] of Object.entries({ width: 34, height: 16, viewBox: "3 -8 34 16", "aria-hidden": "true" })) svg.setAttribute(k, v);
        const copy = mark.cloneNode(true);
        copy.removeAttribute("transform");
        svg.append(copy);
        button.append(svg);
      }
      button.append(trace.name);
      const emphasise = (only) => Plotly.restyle(plot, { opacity: plot.data.map((_, j) => (only < 0 || only === j ? 1 : 0.15)) });
      button.addEventListener("click", () => {
        const show = button.getAttribute("aria-pressed") === "false";
        button.setAttribute("aria-pressed", String(show));
        Plotly.restyle(plot, { visible: show ? true : "legendonly" }, [i]).then(() => plot.euPaper && plot.euPaper());
      });
      button.addEventListener("pointerenter", (e) => { if (e.pointerType === "mouse") emphasise(i); });
      button.addEventListener("pointerleave", (e) => { if (e.pointerType === "mouse") emphasise(-1); });
      button.addEventListener("focus", () => { if (button.matches(":focus-visible")) emphasise(i); });
      button.addEventListener("blur", () => emphasise(-1));
      return make("li", {}, button);
    });
    const list = make("ul", { className: "eu-keys" }, ...keys);
    list.setAttribute("role", "list");
    list.setAttribute("aria-label", "Legend: show or hide a method");
    box.after(list);
  }

  /** The paper's values as a second layer: off at first, and only of the methods that are shown. */
  function addPaper(plot, box) {
    const layers = plot.data.flatMap((trace, i) => {
      const method = /^paper (.*)$/.exec(trace.meta || "");
      return method ? [[i, plot.data.findIndex((other) => other.meta === method[1])]] : [];
    });
    if (!layers.length) return;
    const tick = make("input", { type: "checkbox" });
    plot.euPaper = () => Plotly.restyle(plot, { visible: layers.map(([, own]) => tick.checked && plot.data[own].visible !== "legendonly") }, layers.map(([i]) => i));
    tick.addEventListener("change", plot.euPaper);
    box.append(make("label", { className: "eu-tickbox" }, tick, make("span", { textContent: "with the paper's values" })));
  }

  /** An image stands alone: on a ground, with the title, the source and the keys, which on the page are text. */
  function saveImage(figure, plot, legend) {
    const text = (name) => (figure.querySelector(name) || {}).textContent || "";
    const [title, source] = [text(".eu-title"), text(".eu-provenance")].map((t) => t.replace(/</g, "&lt;"));
    const { height, margin } = plot.layout;
    const layout = changed(plot.layout, {
      paper_bgcolor: themeColours().ground, showlegend: legend, legend: { orientation: "h", yref: "container", y: 0.01, yanchor: "bottom", itemsizing: "trace" },
      title: { text: title, subtitle: { text: source }, x: 0.02, xanchor: "left" }, "margin.t": margin.t + 70, "margin.b": margin.b + (legend ? 60 : 0),
    });
    const size = { width: 900, height: height + (legend ? 130 : 70) };
    Plotly.downloadImage({ data: plot.data, layout: { ...layout, ...size } }, { format: "png", scale: 2, ...size, filename: title || "figure" });
  }

  async function draw(figure, { data, layout }) {
    const plot = figure.querySelector(".eu-plot");
    const box = figure.querySelector(".eu-controls");
    const { updatemenus = [], sliders = [], ...rest } = layout;
    const legend = data.length > 1 && rest.showlegend !== false;
    plot.replaceChildren();
    // A trace without points has no mark in Plotly's legend, from which the keys are made; one with a gap has.
    const traces = data.map((trace) => (trace.x && !trace.x.length ? { ...trace, x: [null], y: [null] } : trace));
    const cells = data.map((trace, i) => (trace.type === "heatmap" ? i : -1)).filter((i) => i >= 0);
    for (const i of cells) traces[i] = changed(traces[i], { "textfont.color": themeColours().ink });
    const looks = () => ({ ...themed(rest), ...fitted(rest, plot.clientWidth) });
    const first = { ...looks(), autosize: true, showlegend: legend, "legend.itemsizing": "trace" };
    const image = { name: "image", title: "Download as an image", icon: Plotly.Icons.camera, click: () => saveImage(figure, plot, legend) };
    await Plotly.newPlot(plot, traces, changed(rest, first), { displaylogo: false, modeBarButtons: [[image]], responsive: false });
    addControls(plot, box, updatemenus, sliders);
    if (legend) {
      addLegend(plot, box);
      await Plotly.relayout(plot, { showlegend: false });
    }
    addPaper(plot, box);
    const dress = async () => {
      await Plotly.relayout(plot, looks());
      if (!cells.length) return;
      await Plotly.restyle(plot, { "textfont.color": themeColours().ink }, cells);
      await Plotly.redraw(plot); // a cell's number keeps the colour that it was drawn with
    };
    new MutationObserver(dress).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    // Also when a tab or a fold-out shows the figure for the first time.
    let width = plot.clientWidth;
    new ResizeObserver(() => {
      if (!plot.clientWidth || plot.clientWidth === width) return;
      width = plot.clientWidth;
      requestAnimationFrame(() => Plotly.relayout(plot, { ...fitted(rest, width), width }));
    }).observe(plot);
    figure.eu = { plot, menus: updatemenus };
    figure.dataset.drawn = "true";
    figure.dispatchEvent(new Event("eu-drawn"));
  }

  function drawAll() {
    const figures = [...document.querySelectorAll(".eu-figure")];
    if (!figures.length) return;
    const read = figures.map((figure) => [figure, JSON.parse(figure.querySelector(":scope > script").textContent)]);
    const small = read.every(([, { data }]) => data.every(({ type = "scatter" }) => SMALL.has(type)));
    const script = make("script", { src: VENDOR + (small ? "plotly-small.min.js" : "plotly.min.js") });
    script.addEventListener("load", async () => { for (const [figure, drawing] of read) await draw(figure, drawing); });
    document.head.append(script); // if it is missing, the alt text stays
  }

  // ------------------------------------------------------------------------------------------------ side by side

  /** From fold-outs, which need no script, to boxes of which a view shows one at a time. */
  function unfold(folds) {
    return [...folds].map((fold) => {
      const node = make("div", { className: fold.className });
      Object.assign(node.dataset, fold.dataset);
      fold.replaceWith(node);
      node.append(...fold.childNodes);
      const summary = node.querySelector("summary");
      summary.replaceWith(make("p", { className: "eu-question" }, ...summary.childNodes));
      return node;
    });
  }

  /** State in the address, #id?key=value: read now and on every change of it, written without a new entry. */
  function addressOf(view, read) {
    const restore = () => {
      const [name, query] = location.hash.slice(1).split("?");
      if (name !== view.id || !query) return;
      read(new URLSearchParams(query));
      view.scrollIntoView();
    };
    addEventListener("hashchange", restore);
    restore();
    return (state) => history.replaceState(null, "", `#${view.id}?${new URLSearchParams(state)}`);
  }

  function sideBySide(view) {
    const { cases, outcomes, methods } = JSON.parse(view.querySelector(":scope > script").textContent);
    const count = view.querySelector(".eu-count");
    const nodes = unfold(view.querySelectorAll(":scope > details"));
    const groups = [...new Set(cases.map((c) => c.group))].map((label) => ({
      label, options: cases.flatMap((c, i) => (c.group === label ? [[i, c.question]] : [])),
    }));
    const [questionLabel, question] = makeSelect("Question", groups);
    const [outcomeLabel, outcome] = makeSelect("Outcome", [["", "all"], ...outcomes.map((o) => [o, o])]);
    const [methodLabel, method] = makeSelect("Method", [["", "all"], ...methods.filter(([m]) => m !== "base")]);
    const find = make("input", { type: "search", autocomplete: "off" });
    const findLabel = make("label", {}, make("span", { textContent: "Find a word" }), find);
    const texts = nodes.map((node) => node.textContent.toLowerCase());
    view.querySelector(".eu-controls").append(questionLabel, methodLabel, outcomeLabel, findLabel);

    function show() {
      const wanted = outcome.value;
      const words = find.value.trim().toLowerCase();
      const said = (item) => (!wanted || item.dataset.outcome === wanted) && (!method.value || item.dataset.method === method.value);
      const fits = nodes.map((node, i) => texts[i].includes(words) && [...node.querySelectorAll("li")].some(said));
      [...question.querySelectorAll("option")].forEach((option) => { option.disabled = !fits[option.value]; });
      if (!fits[question.value] && fits.includes(true)) question.value = String(fits.indexOf(true));
      nodes.forEach((node, i) => { node.hidden = String(i) !== question.value; });
      const items = [...nodes[question.value].querySelectorAll("li")];
      // The base model stays: without it there is nothing to compare with.
      items.forEach((item) => { item.hidden = !said(item) && item.dataset.method !== "base"; });
      const matching = items.filter(said).length;
      const some = fits.filter(Boolean).length;
      const chosen = [method.selectedOptions[0].value && method.selectedOptions[0].text, wanted && `“${wanted}”`].filter(Boolean).join(", ");
      if (!some) count.textContent = "No question fits the filters; the last one is still shown.";
      else count.textContent = chosen
        ? `${chosen}: ${matching} of ${items.length} outputs to this question; ${some} of ${cases.length} questions fit.`
        : `${words ? `${some} of ` : ""}${cases.length} questions, ${items.length} outputs to this one.`;
    }
    show();
    const write = addressOf(view, (state) => {
      const i = cases.findIndex((c) => c.key === state.get("q"));
      if (i >= 0) question.value = String(i);
      outcome.value = outcomes.includes(state.get("outcome")) ? state.get("outcome") : "";
      method.value = methods.some(([m]) => m === state.get("method")) ? state.get("method") : "";
      find.value = state.get("find") || "";
      show();
    });
    const remember = () => write(Object.entries({
      q: cases[question.value].key, method: method.value, outcome: outcome.value, find: find.value.trim(),
    }).filter(([, value]) => value));
    for (const select of [question, method, outcome]) select.addEventListener("change", () => { show(); remember(); });
    find.addEventListener("input", () => { show(); remember(); });
    /** For a view that holds this one: a data set and a method. */
    view.eu = (dataset, name) => {
      if (cases[question.value].dataset !== dataset) question.value = String(Math.max(0, cases.findIndex((c) => c.dataset === dataset)));
      method.value = name;
      show();
    };
  }

  // ------------------------------------------------------------------------------------------------ explorers

  /** One choice of data set and method for a radar, a dot plot, a table and the outputs. */
  function linked(view) {
    const { datasets, methods } = JSON.parse(view.querySelector(":scope > script").textContent);
    const [radar, dots] = view.querySelectorAll(".eu-figure");
    const outputs = view.querySelector(".eu-sbs");
    const rows = [...view.querySelectorAll("tr[data-method]")];
    const chosen = view.querySelector(".eu-chosen");
    const titles = Object.fromEntries([...view.querySelectorAll("tbody[data-dataset]")].map((t) => [t.dataset.dataset, t.querySelector("th").textContent]));
    const [dataLabel, data] = makeSelect("Data set", datasets.map((d) => [d, titles[d] || d]));
    const [methodLabel, method] = makeSelect("Method", [["", "all"], ...methods]);
    const box = view.querySelector(":scope > .eu-controls");
    if (datasets.length > 1) box.append(dataLabel);
    box.append(methodLabel);

    function emphasise() {
      const name = method.value;
      if (radar.eu) {
        const { plot } = radar.eu;
        Plotly.restyle(plot, { opacity: plot.data.map((t) => (!name || [name, `paper ${name}`].includes(t.meta) ? 1 : 0.12)) });
      }
      if (dots.eu) {
        const { plot } = dots.eu;
        const row = plot.layout.yaxis.categoryarray.indexOf((methods.find(([m]) => m === name) || [])[1]);
        Plotly.relayout(plot, { shapes: row < 0 ? [] : [{
          type: "rect", layer: "below", xref: "paper", x0: 0, x1: 1, yref: "y", y0: row - 0.45, y1: row + 0.45, line: { width: 0 }, fillcolor: "rgba(128,128,128,0.25)",
        }] });
      }
    }
    function show() {
      const i = datasets.indexOf(data.value);
      for (const { eu } of [radar, dots]) if (eu && eu.menus[0]) run(eu.plot, eu.menus[0].buttons[i]);
      view.querySelectorAll("tbody[data-dataset]").forEach((t) => { t.hidden = t.dataset.dataset !== data.value; });
      rows.forEach((row) => row.toggleAttribute("data-chosen", row.dataset.method === method.value));
      emphasise();
      outputs.eu(data.value, method.value === "base" ? "" : method.value);
      const name = method.value && method.selectedOptions[0].text;
      const row = rows.find((r) => r.dataset.method === method.value && r.parentNode.dataset.dataset === data.value);
      chosen.textContent = !name ? `All ${methods.length} methods are shown.` : row ? `${name} is emphasised; its outputs are below the table.` : `${name} was not measured on this data set.`;
    }
    const remember = addressOf(view, (state) => {
      if (datasets.includes(state.get("data"))) data.value = state.get("data");
      method.value = methods.some(([m]) => m === state.get("method")) ? state.get("method") : "";
      show();
    });
    const choose = (name) => {
      method.value = method.value === name ? "" : name;
      show();
      remember({ data: data.value, method: method.value });
    };
    for (const select of [data, method]) select.addEventListener("change", () => { show(); remember({ data: data.value, method: method.value }); });
    rows.forEach((row) => row.addEventListener("click", () => choose(row.dataset.method)));
    const bind = (figure, of) => figure.addEventListener("eu-drawn", () => {
      figure.querySelector(".eu-controls label:not(.eu-tickbox)")?.remove(); // its own choice of data set: the view has one
      figure.eu.plot.on("plotly_click", (event) => choose(of(event.points[0])));
      show();
    });
    bind(radar, (point) => String(point.data.meta).replace(/^paper /, ""));
    bind(dots, (point) => (methods.find(([, text]) => text === point.y) || [""])[0]);
    show();
  }

  /** Numbers, cost and outputs at each stop of a slider. */
  function stops(view) {
    const { groups, stops: values, label } = JSON.parse(view.querySelector(":scope > script").textContent);
    const nodes = unfold(view.querySelectorAll("details.eu-stop"));
    const [groupLabel, group] = makeSelect("Method", groups);
    const input = make("input", { type: "range", min: 0, max: values.length - 1, step: 1, value: 0 });
    const value = make("output");
    view.querySelector(".eu-controls").append(groupLabel, make("label", {}, make("span", { textContent: label }), input, value));
    function show() {
      const stop = String(values[input.value]);
      value.textContent = stop;
      input.setAttribute("aria-valuetext", `${label} ${stop}`);
      nodes.forEach((node) => { node.hidden = node.dataset.group !== group.value || node.dataset.stop !== stop; });
    }
    const remember = addressOf(view, (state) => {
      if (groups.some(([g]) => g === state.get("method"))) group.value = state.get("method");
      if (values.includes(Number(state.get("at")))) input.value = values.indexOf(Number(state.get("at")));
      show();
    });
    for (const control of [group, input]) control.addEventListener("input", () => { show(); remember({ method: group.value, at: values[input.value] }); });
    show();
  }

  function start() {
    document.querySelectorAll(".eu-sbs").forEach(sideBySide);
    document.querySelectorAll(".eu-linked").forEach(linked);
    document.querySelectorAll(".eu-stops").forEach(stops);
    drawAll();
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
