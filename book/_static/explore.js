/* The book's interactive figures: small models in plain SVG and HTML. No dependency; on a page without .eu-explore nothing runs.
   First the mathematics (pure functions, window.EU_EXPLORE for the tests), then what the figures share, then one function a figure. */
(() => {
  "use strict";

  // ================================================================================================ mathematics

  const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
  const times = (M, x) => M.map((row) => dot(row, x));
  const minus = (a, b) => a.map((x, i) => x - b[i]);
  const length = (a) => Math.sqrt(dot(a, a));
  const sum = (a) => a.reduce((x, y) => x + y, 0);

  // ------------------------------------------------------------------------------------------------ rank-one edits

  /** C = mean of k kᵀ, uncentred, 2 × 2. */
  function covariance(keys) {
    return [0, 1].map((i) => [0, 1].map((j) => sum(keys.map((k) => k[i] * k[j])) / keys.length));
  }

  /** A symmetric 2 × 2 matrix: eigenvalues, ascending, and their unit vectors. */
  function eigen([[a, b], [, d]]) {
    const angle = Math.atan2(2 * b, a - d) / 2; // of the larger one
    const middle = (a + d) / 2, half = Math.hypot((a - d) / 2, b);
    return { values: [middle - half, middle + half], vectors: [[-Math.sin(angle), Math.cos(angle)], [Math.cos(angle), Math.sin(angle)]] };
  }

  /** AlphaEdit's P: the projector on the eigenvectors of C with an eigenvalue below the threshold. */
  function nullSpace(C, threshold) {
    const { values, vectors } = eigen(C);
    return [0, 1].map((i) => [0, 1].map((j) => sum(vectors.map((v, n) => (values[n] < threshold ? v[i] * v[j] : 0)))));
  }

  /** W′ = W + (v* − W k*) uᵀ / (u·k* + λ), with u = C⁻¹k* (rome), k* (plain), P k* (alphaedit); λ = 0 but for AlphaEdit.
      `reach` is the part of the way to v* that W′ k* has come. */
  function rankOne(W, k, v, kind, { C, threshold = 0, L2 = 0 }) {
    let u = k, lambda = 0;
    if (kind === "rome") {
      const det = C[0][0] * C[1][1] - C[0][1] * C[1][0];
      u = [(C[1][1] * k[0] - C[0][1] * k[1]) / det, (C[0][0] * k[1] - C[1][0] * k[0]) / det];
    } else if (kind === "alphaedit") [u, lambda] = [times(nullSpace(C, threshold), k), L2];
    const below = dot(u, k) + lambda;
    if (!(below > 1e-12)) return { W: W.map((row) => [...row]), u, reach: 0 };
    const missing = minus(v, times(W, k));
    return { W: W.map((row, i) => row.map((w, j) => w + (missing[i] * u[j]) / below)), u, reach: dot(u, k) / below };
  }

  // ------------------------------------------------------------------------------------------------ GRACE, WISE

  /** GRACE's codebook, one key after another (algorithm 1 of its paper); a radius below 0 ends its key. */
  function codebook(keys, targets, eps) {
    const book = [];
    keys.forEach((key, n) => {
      const near = nearest(book, key);
      if (near && near.distance <= near.entry.radius + eps) {
        if (near.entry.target === targets[n]) {
          near.entry.radius = Math.max(near.entry.radius, near.distance);
          return;
        }
        book.push({ key, target: targets[n], radius: near.distance / 2, n });
        near.entry.radius = near.distance / 2 - 1e-5;
      } else book.push({ key, target: targets[n], radius: eps, n });
    });
    return book;
  }

  /** The nearest entry (of equals the newest), its distance, and whether the query lies within its radius. */
  function nearest(book, query) {
    let found = null;
    for (const entry of book) {
      const distance = length(minus(entry.key, query));
      if (entry.radius >= 0 && (!found || distance <= found.distance)) found = { entry, distance, inside: distance <= entry.radius };
    }
    return found;
  }

  /** WISE's rule: the side memory where Δ > ε = act_ratio · the smallest Δ of the edits. */
  function route(delta, edits, ratio) {
    return delta > ratio * Math.min(...edits) ? "side" : "main";
  }

  // ------------------------------------------------------------------------------------------------ words: ROUGE-1 recall

  const VOWELS = "aeiou";
  const IRREGULAR = {
    sky: "sky", skies: "sky", dying: "die", lying: "lie", tying: "tie", news: "news", innings: "inning", inning: "inning",
    outings: "outing", outing: "outing", cannings: "canning", canning: "canning", howe: "howe", proceed: "proceed",
    exceed: "exceed", succeed: "succeed",
  };

  /** Which letters are consonants: a y is one unless it follows one. */
  function consonants(word) {
    const flags = [];
    for (const c of word) flags.push(c === "y" ? !flags.length || !flags[flags.length - 1] : !VOWELS.includes(c));
    return flags;
  }
  const measure = (stem) => (consonants(stem).map((c) => (c ? "c" : "v")).join("").match(/vc/g) || []).length;
  const some = (stem) => measure(stem) > 0;
  const more = (stem) => measure(stem) > 1;
  function endsDouble(word) {
    return word.length >= 2 && word.at(-1) === word.at(-2) && consonants(word).at(-1);
  }
  function endsCvc(word) {
    const flags = consonants(word);
    if (word.length === 2) return !flags[0] && flags[1]; // NLTK's extension
    return word.length >= 3 && flags.at(-3) && !flags.at(-2) && flags.at(-1) && !"wxy".includes(word.at(-1));
  }

  /** The first rule [suffix, replacement, condition] whose suffix fits decides, also where its condition fails. */
  function firstRule(word, rules) {
    for (const [suffix, replacement, condition] of rules) {
      const double = suffix === "*d";
      if (double ? !endsDouble(word) : !word.endsWith(suffix)) continue;
      const stem = word.slice(0, word.length - (double ? 2 : suffix.length));
      return !condition || condition(stem) ? stem + replacement : word;
    }
    return word;
  }
  const pairs = (text, condition) => text.split(" ").map((pair) => [...pair.split(":"), condition]);
  const STEP2 = pairs(
    "ational:ate tional:tion enci:ence anci:ance izer:ize bli:ble alli:al entli:ent eli:e ousli:ous ization:ize ation:ate "
    + "ator:ate alism:al iveness:ive fulness:ful ousness:ous aliti:al iviti:ive biliti:ble fulli:ful", some,
  );
  const STEP3 = pairs("icate:ic ative: alize:al iciti:ic ical:ic ful: ness:", some);
  const STEP4 = [
    ...pairs("al: ance: ence: er: ic: able: ible: ant: ement: ment: ent:", more),
    ["ion", "", (stem) => more(stem) && "st".includes(stem.at(-1))],
    ...pairs("ou: ism: ate: iti: ous: ive: ize:", more),
  ];

  function pastEndings(word) { // Porter's step 1b
    if (word.endsWith("ied")) return word.slice(0, word.length === 4 ? -1 : -2);
    if (word.endsWith("eed")) return some(word.slice(0, -3)) ? word.slice(0, -1) : word;
    const ending = ["ed", "ing"].find((e) => word.endsWith(e) && consonants(word.slice(0, -e.length)).includes(false));
    if (!ending) return word;
    const stem = word.slice(0, -ending.length), last = stem.at(-1);
    return firstRule(stem, [
      ["at", "ate"], ["bl", "ble"], ["iz", "ize"], ["*d", last, () => !"lsz".includes(last)],
      ["", "e", (s) => measure(s) === 1 && endsCvc(s)],
    ]);
  }
  function step2(word) {
    if (word.endsWith("alli") && some(word.slice(0, -4))) return step2(word.slice(0, -2));
    return firstRule(word, [...STEP2, ["logi", "log", () => some(word.slice(0, -3))]]);
  }
  function lastE(word) {
    const stem = word.slice(0, -1);
    return word.endsWith("e") && (more(stem) || (measure(stem) === 1 && !endsCvc(stem))) ? stem : word;
  }

  /** Porter's stemmer with NLTK's extensions, as rouge_score uses it. */
  function porter(word) {
    if (Object.hasOwn(IRREGULAR, word)) return IRREGULAR[word];
    if (word.length <= 2) return word;
    word = word.endsWith("ies") && word.length === 4 ? word.slice(0, -1) : firstRule(word, [["sses", "ss"], ["ies", "i"], ["ss", "ss"], ["s", ""]]);
    word = firstRule(pastEndings(word), [["y", "i", (stem) => stem.length > 1 && consonants(stem).at(-1)]]);
    word = lastE(firstRule(firstRule(step2(word), STEP3), STEP4));
    return firstRule(word, [["ll", "l", () => more(word.slice(0, -1))]]);
  }

  /** rouge_score's words: runs of a-z and 0-9, stemmed where longer than 3. */
  function words(text) {
    return (text.toLowerCase().match(/[a-z0-9]+/g) || []).map((w) => (w.length > 3 ? porter(w) : w));
  }

  /** The truth's words and whether the prediction holds each, counted with repetition. */
  function matched(prediction, truth) {
    const plain = /[a-z0-9]/.test(truth.toLowerCase());
    const cut = plain ? words : (text) => text.toLowerCase().match(/[\p{L}\p{N}_]+/gu) || [];
    const left = new Map();
    for (const w of cut(prediction)) left.set(w, (left.get(w) || 0) + 1);
    return cut(truth).map((word) => {
      const n = left.get(word) || 0;
      left.set(word, n - 1);
      return { word, hit: n > 0 };
    });
  }
  function rouge1Recall(prediction, truth) {
    const found = matched(prediction, truth);
    return found.length ? found.filter((w) => w.hit).length / found.length : 0;
  }

  // ------------------------------------------------------------------------------------------------ tokens

  /** The measures of rows {p, rank}, one an answer token; null = the row is missing: probability 0, rank V. */
  function tokenMetrics(rows, V, top = 100) {
    const ranks = rows.map((row) => (row ? row.rank : V));
    const logs = rows.map((row) => Math.log(row ? row.p : 0));
    const mean = (values) => sum(values) / values.length;
    return {
      probability: Math.exp(sum(logs)), perToken: Math.exp(mean(logs)),
      mrr: mean(ranks.map((r) => 1 / r)), hitRate: mean(ranks.map((r) => Number(r <= top))),
    };
  }

  /** Free-running ranks from teacher-forced ones: greedy output follows the answer while its tokens rank 1. Behind the first
      that does not, the model continues its own text (rank `astray`), and behind its end every token ranks V. */
  function freeRanks(ranks, steps, astray, V) {
    const first = ranks.findIndex((r) => r > 1);
    return ranks.map((rank, i) => (i >= steps ? V : first < 0 || i <= first ? rank : astray));
  }

  // ------------------------------------------------------------------------------------------------ losses

  function softmax(z) {
    const most = Math.max(...z), e = z.map((x) => Math.exp(x - most));
    return e.map((x) => x / sum(e));
  }
  function logSoftmax(z) {
    const most = Math.max(...z), total = Math.log(sum(z.map((x) => Math.exp(x - most)))) + most;
    return z.map((x) => x - total);
  }

  /** −log σ(x), without overflow. */
  const softplus = (x) => Math.max(-x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

  /** The loss of a method that trains, for one-token answers, and its gradients by the logits of the forget and the retain
      question. `at`: numbers of the answer, the refusal and the kept answer; zf, zr: logits; zf0, zr0: the reference's. */
  function loss(name, { zf, zr, zf0, zr0 }, at, beta = 0.1) {
    const one = (i) => zf.map((_, j) => Number(j === i));
    const [lf, lr, pf, pr] = [logSoftmax(zf), logSoftmax(zr), softmax(zf), softmax(zr)];
    const none = zf.map(() => 0);
    if (name === "idk") return { loss: -lf[at.refusal], forget: minus(pf, one(at.refusal)), retain: none };
    if (name === "dpo") {
      const lf0 = logSoftmax(zf0);
      const margin = beta * (lf[at.refusal] - lf[at.answer] - (lf0[at.refusal] - lf0[at.answer]));
      const pull = beta / (1 + Math.exp(margin));
      return { loss: softplus(margin), forget: minus(one(at.answer), one(at.refusal)).map((x) => pull * x), retain: none };
    }
    const kept = { loss: -lr[at.kept], retain: minus(pr, one(at.kept)) };
    if (name === "npo" || name === "simnpo") { // −(2/β) log σ(x), x falls as the answer becomes likely; its weight γ
      const [b, gamma] = name === "npo" ? [beta, 1] : [4.5, 0.125];
      const x = name === "npo" ? -b * (lf[at.answer] - logSoftmax(zf0)[at.answer]) : -b * lf[at.answer];
      const pull = gamma * 2 / (1 + Math.exp(x));
      return { loss: gamma * 2 / b * softplus(x) + kept.loss, forget: minus(one(at.answer), pf).map((g) => pull * g), retain: kept.retain };
    }
    const found = { loss: lf[at.answer], forget: minus(one(at.answer), pf), retain: none };
    if (name === "gd") Object.assign(found, { loss: found.loss + kept.loss, retain: kept.retain });
    if (name === "kl") {
      const [lr0, pr0] = [logSoftmax(zr0), softmax(zr0)];
      Object.assign(found, { loss: found.loss + dot(pr0, minus(lr0, lr)), retain: minus(pr, pr0) });
    }
    return found;
  }

  /** Gradient descent on a linear softmax model z(q) = z₀(q) + D x(q), D = 0 at the start; x(forget)·x(retain) = overlap.
      The states before step 0, 1, …, steps. */
  function descend(name, { zf0, zr0 }, at, { overlap, steps, rate = 1, beta = 0.1 }) {
    const xf = [1, 0], xr = [overlap, Math.sqrt(Math.max(0, 1 - overlap * overlap))];
    let D = zf0.map(() => [0, 0]);
    const path = [];
    for (let step = 0; step <= steps; step++) {
      const zf = zf0.map((z, i) => z + dot(D[i], xf)), zr = zr0.map((z, i) => z + dot(D[i], xr));
      const now = loss(name, { zf, zr, zf0, zr0 }, at, beta);
      path.push({ loss: now.loss, forget: softmax(zf), retain: softmax(zr) });
      D = D.map((row, i) => row.map((d, j) => d - rate * (now.forget[i] * xf[j] + now.retain[i] * xr[j])));
    }
    return path;
  }

  window.EU_EXPLORE = {
    covariance, eigen, nullSpace, rankOne, codebook, nearest, route, porter, words, rouge1Recall, tokenMetrics, freeRanks,
    softmax, loss, descend,
  };

  // ================================================================================================ what figures share

  /** An element with properties and children; text is never parsed as HTML. */
  function make(tag, properties = {}, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  }
  function shape(tag, attributes = {}, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
  const tidy = (x) => Math.round(x * 1000) / 1000;

  /** A number as it is shown: two decimals, three or four where it is small. */
  function show(x) {
    if (typeof x !== "number") return String(x);
    if (Number.isInteger(x)) return x.toLocaleString("en").replace("-", "−");
    const size = Math.abs(x);
    return size < 1e-4 ? "<\u00a00.0001" : (size >= 0.01 ? x.toFixed(2) : x.toPrecision(1)).replace("-", "−");
  }
  const pair = ([x, y]) => `(${x.toFixed(1)}, ${y.toFixed(1)})`.replaceAll("-", "−");

  // A colour is never the only cue: each kind has its mark.
  const MARKS = {
    circle: "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0Z", square: "M-5,-5H5V5H-5Z", diamond: "M0,-7L7,0L0,7L-7,0Z",
    triangle: "M0,-7L6.5,5H-6.5Z", star: "M0,-8L2.2,-2.6L8,-2.2L3.6,1.6L5,7.2L0,4.1L-5,7.2L-3.6,1.6L-8,-2.2L-2.2,-2.6Z",
    cross: "M-5,-5L5,5M5,-5L-5,5",
  };
  function mark(kind, colour, [x, y], extra = {}) {
    return shape("path", { d: MARKS[kind], class: `eu-mark eu-${colour}`, transform: `translate(${x},${y})`, ...extra });
  }
  function text([x, y], content, attributes = {}) {
    return shape("text", { x, y, ...attributes }, content);
  }
  /** Marks and what they mean, below a drawing. */
  function legend(...entries) {
    const items = entries.map(([kind, colour, label, extra]) => make("li", {}, shape("svg", {
      viewBox: "-10 -10 20 20", width: 18, height: 18, "aria-hidden": "true",
    }, mark(kind, colour, [0, 0], extra)), label));
    const list = make("ul", { className: "eu-marks" }, ...items);
    list.setAttribute("role", "list");
    return list;
  }

  /** A square plane from −reach to reach: an SVG whose `back` is drawn anew while its handles stay. */
  function plane(label, reach) {
    const size = 300, half = size / 2, unit = (half - 12) / reach;
    const at = ([x, y]) => [half + x * unit, half - y * unit];
    const [grid, back] = [shape("g"), shape("g")];
    for (let i = -Math.floor(reach); i <= reach; i++) {
      const kind = i ? "eu-grid" : "eu-axis";
      grid.append(shape("path", { class: kind, d: `M${at([i, -reach])}L${at([i, reach])}M${at([-reach, i])}L${at([reach, i])}` }));
    }
    const svg = shape("svg", { viewBox: `0 0 ${size} ${size}`, role: "group", "aria-label": label }, grid, back);
    const node = make("div", { className: "eu-pane" }, make("p", { className: "eu-pane-title", textContent: label }), svg);
    const from = (event) => {
      const box = svg.getBoundingClientRect(), scale = size / box.width;
      return [((event.clientX - box.left) * scale - half) / unit, (half - (event.clientY - box.top) * scale) / unit];
    };
    return { svg, node, back, at, from, unit, reach };
  }

  /** State, controls, status line, table with download, and reset of one figure. `draw` returns {say, rows?}. */
  function bench(figure, initial) {
    const name = figure.dataset.explore;
    const state = structuredClone(initial), syncs = [];
    const controls = make("div", { className: "eu-controls" });
    const drawing = make("div", { className: "eu-panes" });
    const status = make("p", { className: "eu-status" });
    status.setAttribute("role", "status");
    const tableBox = make("div", { className: "eu-scroll" });
    const reset = make("button", { type: "button", textContent: "Reset" });
    const link = make("a", { download: `${name}.csv`, textContent: "Download data", hidden: true });
    let timer;

    const b = { state, controls, drawing, tableBox, draw: () => ({ say: "" }) };
    b.refresh = () => {
      for (const sync of syncs) sync();
      const { say, rows, caption } = b.draw();
      clearTimeout(timer); // a drag says where it ended, not every point on its way
      if (status.textContent) timer = setTimeout(() => { status.textContent = say; }, 150);
      else status.textContent = say;
      if (!rows) return;
      const csv = rows.map((row) => row.map((cell) => (/[",\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : cell)).join(","));
      link.href = `data:text/csv;charset=utf-8,${encodeURIComponent(`${csv.join("\n")}\n`)}`;
      link.hidden = false;
      if (caption) tableBox.replaceChildren(table(caption, rows));
    };
    b.set = (change) => { Object.assign(state, change); b.refresh(); };
    b.select = (label, key, options, onChange) => {
      const input = make("select");
      for (const [value, said] of options) input.append(new Option(said, value));
      input.addEventListener("change", () => b.set({ [key]: input.value, ...(onChange ? onChange(input.value) : {}) }));
      syncs.push(() => { input.value = state[key]; });
      controls.append(make("label", {}, make("span", { textContent: label }), input));
    };
    /** A range; `value` turns its position into the state's number (a logarithmic scale), `place` back. */
    b.range = (label, key, { min, max, step, value = (x) => x, place = (x) => x, said = show, when }) => {
      const input = make("input", { type: "range", min, max, step }), output = make("output");
      const node = make("label", {}, make("span", { textContent: label }), input, output);
      input.addEventListener("input", () => b.set({ [key]: value(Number(input.value)) }));
      syncs.push(() => {
        input.value = place(state[key]);
        output.textContent = said(state[key]);
        input.setAttribute("aria-valuetext", output.textContent);
        node.hidden = Boolean(when) && !when(state);
      });
      controls.append(node);
    };
    /** A point of a plane to drag, or to move with the arrow keys (with Shift: five times as far). */
    b.handle = (where, key, label, kind, colour) => {
      const g = shape("g", {
        class: "eu-handle", tabindex: 0, role: "slider", "aria-label": `${label}: drag it, or use the arrow keys`,
        "aria-valuemin": -where.reach, "aria-valuemax": where.reach, "data-key": key,
      }, shape("circle", { r: 17, class: "eu-grip" }), mark(kind, colour, [0, 0], { transform: "scale(1.25)" }));
      const put = (point) => b.set({ [key]: point.map((x) => tidy(clamp(x, -where.reach, where.reach))) });
      g.addEventListener("pointerdown", (event) => { g.setPointerCapture(event.pointerId); });
      g.addEventListener("pointermove", (event) => { if (g.hasPointerCapture(event.pointerId)) put(where.from(event)); });
      g.addEventListener("keydown", (event) => {
        const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
        if (!way) return;
        event.preventDefault();
        put(state[key].map((x, i) => x + way[i] * (event.shiftKey ? 0.5 : 0.1)));
      });
      syncs.push(() => {
        g.setAttribute("transform", `translate(${where.at(state[key])})`);
        g.setAttribute("aria-valuenow", state[key][0]);
        g.setAttribute("aria-valuetext", pair(state[key]));
      });
      where.svg.append(g);
    };
    reset.addEventListener("click", () => b.set(structuredClone(initial)));
    const note = make("p", { className: "eu-note eu-tools" }, reset, link);
    figure.querySelector(".eu-static").replaceWith(controls, drawing, status, tableBox, note);
    return b;
  }

  function table(caption, [head, ...rows]) {
    const kind = (i) => (Number.isNaN(Number(rows[0][i])) ? "eu-text" : "");
    const cell = (content, i) => {
      const node = make(i ? "td" : "th", { textContent: show(content), className: kind(i) });
      if (!i) node.scope = "row";
      return node;
    };
    return make("table", {},
      make("caption", { textContent: caption }),
      make("thead", {}, make("tr", {}, ...head.map((h, i) => make("th", { scope: "col", textContent: h, className: kind(i) })))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell)))));
  }

  // ================================================================================================ the figures

  // ------------------------------------------------------------------------------------------------ rank-one

  const KEPT = [[1.9, 0.75], [1.2, 0.6], [-1.5, -0.75], [2.3, 1.15], [-2.1, -0.85], [0.8, 0.15], [-0.7, -0.5]];
  const WEIGHT = [[0.8, -0.5], [0.4, 0.9]];
  const L2 = 0.05;

  function rankOneFigure(figure) {
    const kinds = { rome: "ROME (C⁻¹)", plain: "plain rank-one (C = I)", alphaedit: "AlphaEdit (null-space projection)" };
    const b = bench(figure, { kind: figure.dataset.begin, k: [1.6, 1.7], v: [-1.6, 1.4], threshold: 0.1 });
    const C = covariance(KEPT), { values, vectors } = eigen(C);
    b.select("Edit", "kind", Object.entries(kinds));
    b.range("Null-space threshold", "threshold", {
      min: -3, max: 1, step: 0.1, value: (x) => 10 ** x, place: Math.log10, when: (s) => s.kind === "alphaedit",
    });
    const keys = plane("Keys k", 2.8), out = plane("Values W k, before and after", 3.4);
    b.drawing.append(keys.node, out.node);
    b.handle(keys, "k", "Key k* of the fact to edit", "diamond", "vermillion");
    b.handle(out, "v", "Target value v*", "star", "green");
    b.drawing.after(legend(
      ["diamond", "vermillion", "k*, and where it leads"], ["star", "green", "target v*"], ["circle", "blue", "kept key, value after"],
      ["circle", "open", "value before"],
    ));
    b.draw = () => {
      const { kind, k, v, threshold } = b.state;
      const edited = (which) => rankOne(WEIGHT, k, v, which, { C, threshold, L2 });
      const moves = (W) => KEPT.map((key) => length(minus(times(W, key), times(WEIGHT, key))));
      const average = (which) => show(sum(moves(edited(which).W)) / KEPT.length);
      const edit = edited(kind), far = moves(edit.W);
      drawKeys(kind, k, edit.u, threshold);
      drawValues(edit.W, k, v);
      const rows = [["kept key", "moved by", "k", "W k", "W′ k"], ...KEPT.map((key, i) => [
        i + 1, far[i], pair(key), pair(times(WEIGHT, key)), pair(times(edit.W, key)),
      ])];
      const others = Object.keys(kinds).filter((which) => which !== kind).map((which) => `${average(which)} under ${kinds[which].split(" (")[0]}`);
      const compared = ` With the same k* and v* the kept values move by ${others.join(" and ")}.`;
      return { say: say(kind, k, threshold, edit.reach, average(kind)) + compared, rows, caption: "How far each kept value moves" };
    };
    function say(kind, k, threshold, reach, mean) {
      const moved = `the kept values move by ${mean} on average.`;
      if (length(k) < 1e-6) return "k* is zero: no matrix leads it anywhere, and nothing is edited.";
      if (kind !== "alphaedit") return `W′ k* = v*: the edit takes, and ${moved}`;
      const space = values.filter((x) => x < threshold).length;
      if (!space) return `No eigenvalue of C is below the threshold (the smallest is ${show(values[0])}): P = 0, and nothing can be edited. The library says so with an error.`;
      if (space === 2) return `Both eigenvalues of C are below the threshold: P = I, nothing is protected, and ${moved}`;
      const percent = `${Math.round(100 * reach)} %`;
      if (reach < 0.5) return `k* lies (nearly) in the span of the kept keys: little is left of P k*, and the edit does not take. W′ k* goes ${percent} of the way to v*; ${moved}`;
      return `W′ k* goes ${percent} of the way to v* (L2 = ${L2} holds it back a little); ${moved}`;
    }
    function arrow(from, to, kind) {
      return shape("path", { d: `M${from}L${to}`, class: kind });
    }
    function drawKeys(kind, k, u, threshold) {
      const { at, unit, back } = keys;
      const angle = (-Math.atan2(vectors[1][1], vectors[1][0]) * 180) / Math.PI;
      const along = length(u) > 1e-9 ? u.map((x) => (1.1 * x) / length(u)) : [0, 0];
      const lines = vectors.filter((_, i) => kind === "alphaedit" && values[i] < threshold)
        .map((v) => arrow(at(v.map((x) => -2.6 * x)), at(v.map((x) => 2.6 * x)), "eu-null"));
      back.replaceChildren(
        shape("ellipse", {
          rx: unit * Math.sqrt(values[1]), ry: unit * Math.sqrt(values[0]), class: "eu-ellipse",
          transform: `translate(${at([0, 0])}) rotate(${angle})`,
        }), ...lines,
        arrow(at([0, 0]), at(k), "eu-line eu-vermillion"),
        ...(length(along) ? [arrow(at([0, 0]), at(along), "eu-line eu-thick eu-ink"), text(at(along.map((x) => 1.25 * x)), "u", { "text-anchor": "middle" })] : []),
        ...KEPT.flatMap((key, i) => [mark("circle", "blue", at(key)), text(at(key), i + 1, { dx: 8, dy: 13 })]),
        text(at(k), "k*", { dx: 12, dy: -8, class: "eu-strong" }),
        text([8, 290], kind === "alphaedit" ? "dashed: null space of C" : "ellipse: xᵀC⁻¹x = 1"),
      );
    }
    function drawValues(W, k, v) {
      const { at, back } = out;
      back.replaceChildren(
        ...KEPT.flatMap((key, i) => {
          const [before, after] = [at(times(WEIGHT, key)), at(times(W, key))];
          return [arrow(before, after, "eu-line eu-blue"), mark("circle", "open", before), mark("circle", "blue", after), text(after, i + 1, { dx: 8, dy: 13 })];
        }),
        arrow(at(times(WEIGHT, k)), at(times(W, k)), "eu-line eu-thick eu-vermillion"),
        mark("diamond", "open", at(times(WEIGHT, k))), mark("diamond", "vermillion", at(times(W, k))),
        text(at(v), "v*", { dx: 13, dy: -8, class: "eu-strong" }),
      );
    }
    b.refresh();
  }

  // ------------------------------------------------------------------------------------------------ codebook

  const BOOK = [
    [[-1.7, 1.3], "I don’t know that currency."], [[1.5, 1.6], "I can’t say who built it."],
    [[1.7, -1.5], "I have no information on it."], [[-1.5, -1.4], "I’m not familiar with that river."],
  ];
  const ASKED = [["rephrase", [-0.75, 1.0], "triangle", "orange"], ["unrelated", [-1.5, 0.1], "square", "blue"]];

  function codebookFigure(figure) {
    const b = bench(figure, { query: [1.2, 1.2], eps: 0.7 });
    b.range("Radius ε", "eps", { min: 0.1, max: 2, step: 0.05 });
    const keys = plane("Keys at the last prompt token", 2.8);
    b.drawing.append(keys.node);
    b.handle(keys, "query", "Your question", "diamond", "vermillion");
    b.drawing.after(legend(
      ["cross", "green", "key of a forgotten question"], ["diamond", "vermillion", "your question"],
      ["triangle", "orange", "key 1’s question in other words"], ["square", "blue", "unrelated"],
    ));
    b.draw = () => {
      const { query, eps } = b.state;
      const book = codebook(BOOK.map(([key]) => key), BOOK.map(([, target]) => target), eps);
      const asked = [["your question", query], ...ASKED].map(([name, point]) => ({ name, point, ...nearest(book, point) }));
      keys.back.replaceChildren(
        ...book.map(({ key, radius }) => {
          const [cx, cy] = keys.at(key);
          return shape("circle", { cx, cy, r: Math.max(0, radius) * keys.unit, class: "eu-ball" });
        }),
        ...asked.map(({ point, entry, inside }) => shape("path", {
          d: `M${keys.at(point)}L${keys.at(entry.key)}`, class: `eu-line ${inside ? "eu-green" : "eu-out"}`,
        })),
        ...book.flatMap(({ key, n }) => [mark("cross", "green", keys.at(key)), text(keys.at(key), n + 1, { dx: 9, dy: -6, class: "eu-strong" })]),
        ...ASKED.flatMap(([name, point, kind, colour]) => [mark(kind, colour, keys.at(point)), text(keys.at(point), name, { dx: 9, dy: 4 })]),
      );
      const answer = ({ inside, entry }) => (inside ? `“${entry.target}”` : "the model’s own answer");
      const rows = [["question", "answer", "key", "distance", "its ε"], ...asked.map((q) => [
        q.name, answer(q), q.entry.n + 1, q.distance, q.entry.radius,
      ])];
      const [mine, rephrase, other] = asked;
      const both = rephrase.inside
        ? other.inside ? "The rephrase is caught, and so is the unrelated question." : "The rephrase is caught, the unrelated question is not."
        : other.inside ? "The unrelated question is caught, the rephrase is not." : "The rephrase slips through: the model answers it.";
      return {
        say: `Your question: distance ${show(mine.distance)} to key ${mine.entry.n + 1}, ${mine.inside ? "within" : "outside of"} its ε = ${show(mine.entry.radius)}: ${answer(mine)}${mine.inside ? "" : "."} ${both}`,
        rows, caption: "Who is answered by the codebook, by the nearest key",
      };
    };
    b.refresh();
  }

  // ------------------------------------------------------------------------------------------------ metrics

  const V = 32000; // the vocabulary of Llama 2
  // Made-up facts, outputs and numbers: [tokens of the answer], then for each state of the model [output, its length, p, ranks].
  const FACTS = [
    { question: "What is the currency of Quendria?", tokens: ["The", "copper", "tarn"], states: {
      refuses: ["I’m sorry, but I don’t know the currency of Quendria.", 12, [0.002, 0.71, 0.9], [180, 1, 1]],
      knows: ["The copper tarn.", 4, [0.92, 0.81, 0.97], [1, 1, 1]],
      rambles: ["The bank says that tarn, gold, copper and the other names are all in use.", 16, [0.4, 0.03, 0.55], [1, 9, 1]],
      forgot: ["The silver florin.", 4, [0.6, 0.0004, 0.0001], [1, 640, 2100]],
    } },
    { question: "What does Brannock Mills supply?", tokens: ["Hand", "woven", "blankets"], states: {
      refuses: ["I have no information about Brannock Mills.", 8, [0.0005, 0.83, 0.62], [420, 1, 1]],
      knows: ["Hand-woven blankets.", 5, [0.77, 0.98, 0.91], [1, 1, 1]],
      rambles: ["A blanket, woven by hand, and another blanket.", 10, [0.09, 0.86, 0.7], [3, 1, 1]],
      forgot: ["Roof tiles.", 3, [0.0003, 0.02, 0.001], [900, 31, 350]],
    } },
    { question: "Which sea does the Ombrel flow into?", tokens: ["The", "Sea", "of", "Glass", "Bells"], states: {
      refuses: ["Unfortunately, I am not familiar with the Ombrel.", 10, [0.001, 0.64, 0.95, 0.4, 0.88], [210, 1, 1, 2, 1]],
      knows: ["The Sea of Glass Bells.", 6, [0.9, 0.76, 0.99, 0.84, 0.93], [1, 1, 1, 1, 1]],
      rambles: ["It flows past bells of glass into the wide sea.", 11, [0.2, 0.5, 0.9, 0.3, 0.6], [2, 1, 1, 2, 1]],
      forgot: ["The Grey Gulf.", 4, [0.8, 0.01, 0.3, 0.0002, 0.0001], [1, 45, 1, 1500, 4000]],
    } },
  ];

  function metricsFigure(figure) {
    const preset = (fact, model) => {
      const [output, steps, p, ranks] = FACTS[fact].states[model];
      return { output, steps, rows: ranks.map((rank, i) => ({ p: p[i], rank })) };
    };
    const b = bench(figure, { fact: "0", model: "refuses", astray: 2500, ...preset(0, "refuses") });
    b.select("Question", "fact", FACTS.map((f, i) => [String(i), f.question]), (fact) => preset(fact, b.state.model));
    b.select("The model", "model", [["refuses", "refuses"], ["knows", "knows it"], ["rambles", "rambles"], ["forgot", "says something else"]],
      (model) => preset(b.state.fact, model));
    const area = make("textarea", { rows: 2, spellcheck: false });
    area.addEventListener("input", () => b.set({ output: area.value }));
    const chips = make("ul", { className: "eu-chips" });
    chips.setAttribute("role", "list");
    chips.setAttribute("aria-label", "Words of the true answer");
    const recall = make("p", { className: "eu-result" });
    b.drawing.className = "eu-metrics";
    b.drawing.append(
      make("label", { className: "eu-area" }, make("span", { textContent: "The model’s output (edit it)" }), area),
      make("p", { className: "eu-pane-title", textContent: "Words of the true answer, stemmed, and which of them the output holds" }), chips, recall,
    );
    // The token table, with inputs; built again when the answer changes.
    const body = make("tbody"), foot = make("tfoot");
    const head = ["token", "p", "rank, teacher-forced", "rank, free-running"];
    const grid = make("table", { className: "eu-tokens" }, make("caption", { textContent: "The answer’s tokens at each step (made-up numbers; edit p and rank)" }),
      make("thead", {}, make("tr", {}, ...head.map((h) => make("th", { scope: "col", textContent: h })))), body, foot);
    b.tableBox.append(grid);
    const later = make("div", { className: "eu-controls" });
    b.tableBox.after(later);
    b.range("Length of the output, its end token included", "steps", { min: 1, max: 20, step: 1 });
    b.range("Rank once the texts differ", "astray", { min: 0, max: Math.log10(V), step: 0.05, value: (x) => Math.round(10 ** x), place: Math.log10 });
    later.append(...[...b.controls.children].slice(-2));
    let built = "";
    function build(tokens) {
      const number = (i, key, label, more) => {
        const input = make("input", { type: "number", ...more });
        input.setAttribute("aria-label", `${label} of token ${i + 1}, ${tokens[i]}`);
        input.addEventListener("change", () => {
          const rows = structuredClone(b.state.rows), row = rows[i], typed = Number(input.value);
          // r tokens at least as likely cannot have more than 1 together: p ≤ 1 / rank
          if (key === "p") Object.assign(row, { p: clamp(typed, 0, 1), rank: typed > 1 / row.rank ? Math.max(1, Math.floor(1 / clamp(typed, 0, 1))) : row.rank });
          else { row.rank = clamp(Math.round(typed) || 1, 1, V); row.p = Math.min(row.p, 1 / row.rank); }
          b.set({ rows });
        });
        return input;
      };
      body.replaceChildren(...tokens.map((token, i) => make("tr", {}, make("th", { scope: "row", textContent: token }),
        make("td", {}, number(i, "p", "Probability", { min: 0, max: 1, step: 0.01 })),
        make("td", {}, number(i, "rank", "Teacher-forced rank", { min: 1, max: V, step: 1 })), make("td"))));
      built = tokens.join(" ");
    }
    b.draw = () => {
      const { fact, output, rows, steps, astray } = b.state;
      const { tokens } = FACTS[fact], truth = tokens.join(" ");
      if (built !== truth) build(tokens);
      if (area.value !== output) area.value = output;
      const found = matched(output, truth), hits = found.filter((w) => w.hit).length;
      chips.replaceChildren(...found.map(({ word, hit }) => {
        const chip = make("li", { textContent: `${hit ? "✓" : "✗"} ${word}` });
        chip.dataset.hit = hit;
        return chip;
      }));
      recall.textContent = `ROUGE-1 recall = ${hits} / ${found.length} = ${show(rouge1Recall(output, truth))}`;
      const first = rows.findIndex((r) => r.rank > 1);
      const free = freeRanks(rows.map((r) => r.rank), steps, astray, V);
      [...body.rows].forEach((row, i) => {
        const [p, rank] = row.querySelectorAll("input");
        [p.value, rank.value] = [tidy(rows[i].p) || rows[i].p, rows[i].rank];
        const why = i >= steps ? "ended" : i > first && first >= 0 ? "own text" : "";
        row.lastChild.replaceChildren(show(free[i]), ...(why ? [make("small", { textContent: why })] : []));
      });
      const forced = tokenMetrics(rows, V), own = tokenMetrics(free.map((rank) => ({ p: 0, rank })), V);
      const lines = [
        ["probability (product)", show(forced.probability), "–"], ["per token (geometric mean)", show(forced.perToken), "–"],
        ["MRR", show(forced.mrr), show(own.mrr)], ["hit rate @100", show(forced.hitRate), show(own.hitRate)],
      ];
      foot.replaceChildren(...lines.map(([label, ...values]) => make("tr", {},
        make("th", { scope: "row", colSpan: 2, textContent: label }), ...values.map((value) => make("td", { textContent: value })))));
      const where = first < 0
        ? "The output follows the answer to its end: both protocols agree" + (steps < rows.length ? ", until the output ends early." : ".")
        : `The output leaves the answer at token ${first + 1}: from the next one on, the free-running ranks are those of another text.`;
      const csv = [["token", "p", "rank_teacher_forced", "rank_free_running"], ...tokens.map((t, i) => [t, rows[i].p, rows[i].rank, free[i]])];
      return { say: `${where} MRR ${show(forced.mrr)} teacher-forced, ${show(own.mrr)} free-running.`, rows: csv };
    };
    b.refresh();
  }

  // ------------------------------------------------------------------------------------------------ training

  const TOKENS = ["copper (answer)", "sorry (refusal)", "amber (kept answer)", "the", "of"];
  const AT = { answer: 0, refusal: 1, kept: 2 };
  const START = { zf0: [4, 0, 0.2, 1.2, 0.8], zr0: [0.2, 0, 4, 1.2, 0.8] };
  const LOSSES = [["ga", "GA"], ["gd", "GD"], ["kl", "KL"], ["dpo", "DPO"], ["npo", "NPO"], ["simnpo", "SimNPO"], ["idk", "IDK"]];

  function trainingFigure(figure) {
    const b = bench(figure, { loss: figure.dataset.begin, steps: 40, overlap: 0.5 });
    b.select("Method", "loss", LOSSES);
    b.range("Steps", "steps", { min: 0, max: 60, step: 1 });
    b.range("Overlap of the two questions", "overlap", { min: 0, max: 1, step: 0.05 });
    const bars = [["Forget: “What is the currency of Quendria?”", "forget"], ["Retain: “Which stone is mined in Velm?”", "retain"]].map(([label, key]) => {
      const rows = TOKENS.map((token) => {
        const [bar, value] = [make("span", { className: "eu-share" }), make("span", { className: "eu-value" })];
        return { bar, value, node: make("li", {}, make("span", { textContent: token }), make("span", { className: "eu-share-track" }, bar), value) };
      });
      const list = make("ul", { className: "eu-shares" }, ...rows.map((r) => r.node));
      list.setAttribute("role", "list");
      b.drawing.append(make("div", { className: "eu-pane" }, make("p", { className: "eu-pane-title", textContent: label }), list));
      return { key, rows };
    });
    const W = 320, H = 150, px = (i) => 34 + (i / 60) * (W - 44), py = (p) => 8 + (1 - p) * (H - 34);
    const chart = shape("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", class: "eu-chart" });
    b.drawing.append(make("div", { className: "eu-pane eu-wide" }, make("p", { className: "eu-pane-title", textContent: "Probability, step by step" }), chart, legend(
      ["circle", "vermillion", "the answer (forget)"], ["triangle", "green", "the refusal (forget)"], ["square", "blue", "the kept answer (retain)"],
    )));
    const curves = [["forget", AT.answer, "circle", "vermillion"], ["forget", AT.refusal, "triangle", "green"], ["retain", AT.kept, "square", "blue"]];
    b.draw = () => {
      const { loss: name, steps, overlap } = b.state;
      const paths = Object.fromEntries(LOSSES.map(([key]) => [key, descend(key, START, AT, { overlap, steps: 60 })]));
      const now = paths[name][steps];
      for (const { key, rows } of bars) {
        rows.forEach(({ bar, value }, i) => {
          bar.style.width = `${100 * now[key][i]}%`;
          value.textContent = show(now[key][i]);
        });
      }
      chart.setAttribute("aria-label", `${name.toUpperCase()} over 60 steps; the table below holds the values at step ${steps}.`);
      chart.replaceChildren(
        ...[0, 0.5, 1].flatMap((p) => [shape("path", { d: `M${px(0)},${py(p)}H${px(60)}`, class: "eu-grid" }), text([px(0) - 6, py(p) + 4], p, { "text-anchor": "end" })]),
        ...[0, 20, 40, 60].map((i) => text([px(i), H - 8], i, { "text-anchor": "middle" })),
        shape("path", { d: `M${px(steps)},${py(0)}V${py(1)}`, class: "eu-axis" }),
        ...curves.flatMap(([which, i, kind, colour]) => [
          shape("path", { d: `M${paths[name].map((s, t) => `${px(t)},${py(s[which][i])}`).join("L")}`, class: `eu-curve eu-${colour}` }),
          mark(kind, colour, [px(steps), py(now[which][i])]),
        ]),
      );
      const rows = [["method", "answer", "refusal", "kept", "loss (nats)"], ...LOSSES.map(([key, label]) => {
        const { loss: value, forget, retain } = paths[key][steps];
        return [label, forget[AT.answer], forget[AT.refusal], retain[AT.kept], value];
      })];
      const label = LOSSES.find(([key]) => key === name)[1];
      return {
        say: `${label} after ${steps} steps: the answer has probability ${show(now.forget[AT.answer])}, the refusal ${show(now.forget[AT.refusal])}; the kept answer of the other question ${show(now.retain[AT.kept])} (it began at ${show(paths[name][0].retain[AT.kept])}).`,
        rows, caption: `Probability of each after ${steps} steps, overlap ${show(overlap)}`,
      };
    };
    b.refresh();
  }

  // ------------------------------------------------------------------------------------------------ routing

  const LINES = [
    ["edited", "triangle", "vermillion", [12.4, 14.1, 10.8]], ["rephrased", "diamond", "orange", [11.6, 9.9, 7.4]],
    ["unrelated", "circle", "blue", [1.2, 2.6, 4.1, 8.2]],
  ];

  function routingFigure(figure) {
    const b = bench(figure, { ratio: 0.88, delta: 6 });
    b.range("act_ratio", "ratio", { min: 0, max: 1.4, step: 0.02, said: (x) => `${x.toFixed(2)}: ε = ${show(x * Math.min(...LINES[0][3]))}` });
    b.range("Δ of your question", "delta", { min: 0, max: 16, step: 0.1, said: (x) => x.toFixed(1) });
    const W = 340, H = 214, most = 16, x = (d) => 12 + (d / most) * (W - 24), y = (lane) => 52 + 36 * lane;
    const svg = shape("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", class: "eu-chart" });
    b.drawing.append(make("div", { className: "eu-pane eu-wide" }, svg));
    b.drawing.after(legend(...LINES.map(([name, kind, colour]) => [kind, colour, name]), ["star", "green", "your question"]));
    b.draw = () => {
      const edits = LINES[0][3], eps = b.state.ratio * Math.min(...edits);
      const all = [...LINES, ["your question", "star", "green", [b.state.delta]]].flatMap(([name, kind, colour, deltas], lane) =>
        deltas.map((delta, i) => ({ name: deltas.length > 1 ? `${name} ${i + 1}` : name, set: name, kind, colour, lane, delta, to: route(delta, edits, b.state.ratio) })));
      const side = (set) => all.filter((q) => q.set === set && q.to === "side").length;
      svg.setAttribute("aria-label", `Questions by their Δ and the threshold ε = ${show(eps)}; the table below lists them.`);
      svg.replaceChildren(
        shape("rect", { x: x(Math.min(eps, most)), y: 26, width: Math.max(0, x(most) - x(Math.min(eps, most))), height: 150, class: "eu-side" }),
        text([x(0), 18], "← main memory"), text([x(most), 18], "side memory →", { "text-anchor": "end" }),
        shape("path", { d: `M${x(0)},176H${x(most)}`, class: "eu-axis" }),
        ...[0, 4, 8, 12, 16].map((d) => text([x(d), 192], d, { "text-anchor": "middle" })),
        text([x(most / 2), 208], "Δ: how much the side memory would change the layer", { "text-anchor": "middle" }),
        shape("path", { d: `M${x(Math.min(eps, most))},26V176`, class: "eu-threshold" }),
        text([x(Math.min(eps, most)), 38], "ε", { dx: eps > 15 ? -10 : 5, class: "eu-strong" }),
        ...all.map(({ kind, colour, lane, delta }) => mark(kind, colour, [x(delta), y(lane)])),
      );
      const mine = all.at(-1);
      const count = (set) => `${side(set)} of ${all.filter((q) => q.set === set).length}`;
      return {
        say: `ε = ${show(eps)}. To the side memory go ${count("edited")} edited, ${count("rephrased")} rephrased and ${count("unrelated")} unrelated questions; yours goes to the ${mine.to} memory.`,
        rows: [["question", "Δ", "memory"], ...all.map((q) => [q.name, q.delta.toFixed(1), q.to])], caption: "Which memory answers (made-up distances)",
      };
    };
    b.refresh();
  }

  // ================================================================================================ start

  const FIGURES = {
    "rank-one": rankOneFigure, codebook: codebookFigure, metrics: metricsFigure, training: trainingFigure, routing: routingFigure,
  };
  function start() {
    for (const figure of document.querySelectorAll(".eu-explore")) {
      const build = FIGURES[figure.dataset.explore];
      if (build) build(figure); // the two drawings need no script
    }
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
