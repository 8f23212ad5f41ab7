// The console's small script: charts drawn from data-chart, copy buttons, live parts that say when they are lost.
// Pages work without it, except for charts (their tables stay) and the playground.
"use strict";
(() => {
  const lang = document.documentElement.lang;
  const plots = new WeakMap();

  // ---- charts ----------------------------------------------------------------------------------------------------
  const colour = (name) => {
    const probe = document.createElement("span");
    probe.className = `probe-${name}`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const compact = new Intl.NumberFormat(lang, { notation: "compact", maximumFractionDigits: 2 });
  const whole = new Intl.NumberFormat(lang, { maximumFractionDigits: 2 });
  const written = (value, kind, currency) => {
    if (value == null) return "–";
    if (kind === "money") {
      const digits = value !== 0 && Math.abs(value) < 1 ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: 2 };
      return new Intl.NumberFormat(lang, { style: "currency", currency, ...digits }).format(value);
    }
    return kind === "duration" ? `${whole.format(value)} ms` : whole.format(value);
  };
  const axisText = (value, kind, currency) => {
    if (kind !== "money") return compact.format(value);
    const digits = Math.abs(value) < 1 ? { maximumSignificantDigits: 2 } : { maximumFractionDigits: 2 };
    return new Intl.NumberFormat(lang, { style: "currency", currency, notation: "compact", minimumFractionDigits: 0, ...digits }).format(value);
  };
  const dayText = new Intl.DateTimeFormat(lang, { timeZone: "UTC", month: "short", day: "numeric" });
  const hourText = new Intl.DateTimeFormat(lang, { timeZone: "UTC", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const timeText = (seconds, byDay) => (byDay ? dayText : hourText).format(new Date(seconds * 1000));

  const tooltip = (spec) => {
    let tip;
    return {
      hooks: {
        init: (u) => {
          tip = document.createElement("div");
          tip.className = "u-tip";
          tip.hidden = true;
          u.over.append(tip);
        },
        setCursor: (u) => {
          const at = u.cursor.idx;
          tip.hidden = at == null || u.cursor.left < 0;
          if (tip.hidden) return;
          const lines = [timeText(u.data[0][at], u.spec.byDay) + (u.spec.byDay ? "" : " UTC")];
          u.spec.series.forEach((one, i) => lines.push(`${one.label}: ${written(u.data[i + 1][at], one.kind, u.spec.currency)}`));
          tip.replaceChildren(...lines.flatMap((line, i) => (i ? [document.createElement("br"), line] : [line])));
          const left = u.valToPos(u.data[0][at], "x");
          tip.style.left = `${Math.min(Math.max(0, left + 10), Math.max(0, u.over.clientWidth - tip.offsetWidth))}px`;
          tip.style.top = "2px";
        },
      },
    };
  };

  const draw = (figure) => {
    const box = figure.querySelector(".plot");
    const spec = JSON.parse(figure.dataset.chart);
    const data = [spec.x, ...spec.series.map((one) => one.values)];
    const old = plots.get(box);
    if (old && old.spec.x.length === spec.x.length && old.spec.byDay === spec.byDay && box.contains(old.root)) {
      old.spec = spec;
      old.setData(data);
      return;
    }
    if (old) old.destroy();
    const bars = spec.series.length === 1 && spec.byDay && spec.x.length <= 62;
    const [accent, quiet, muted, line] = ["accent", "quiet", "muted", "line"].map(colour);
    const kind = spec.series[0].kind;
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: muted, font, grid: { stroke: line, width: 1 }, ticks: { show: false } };
    const options = {
      width: box.clientWidth, height: box.clientHeight, padding: [8, bars ? 6 : 26, 0, 0], legend: { show: false },
      cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
      scales: { x: { time: true, range: (u, min, max) => (bars ? [min - 43200, max + 43200] : [min, max]) }, y: { range: (u, min, max) => [Math.min(0, min), max > 0 ? max * 1.08 : 1] } },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      axes: [
        { ...axis, grid: { show: false }, size: 26, gap: 6, space: 58, values: (u, splits) => splits.map((s) => timeText(s, u.spec ? u.spec.byDay : spec.byDay)) },
        { ...axis, size: (u, values) => 14 + 6.4 * Math.max(3, ...(values || []).map((v) => v.length)), gap: 6, space: 34, values: (u, splits) => splits.map((s) => axisText(s, kind, spec.currency)) },
      ],
      series: [{}, ...spec.series.map((one) => ({
        label: one.label, width: 1.6, stroke: one.tone === "quiet" ? quiet : accent, dash: one.tone === "quiet" ? [4, 3] : undefined,
        fill: one.tone === "quiet" ? undefined : bars ? accent : accent.replace("rgb(", "rgba(").replace(")", ", 0.09)"),
        paths: bars ? uPlot.paths.bars({ size: [0.66, 26], radius: 0.18 }) : uPlot.paths.linear(), points: { show: false },
      }))],
      plugins: [tooltip(spec)],
    };
    box.replaceChildren();
    const plot = new uPlot(options, data, box);
    plot.spec = spec;
    plots.set(box, plot);
    resizer.observe(box);
  };
  const resizer = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const plot = plots.get(target);
      if (plot && target.clientWidth && plot.width !== target.clientWidth) plot.setSize({ width: target.clientWidth, height: target.clientHeight });
    }
  });
  const drawAll = () => document.querySelectorAll("[data-chart]").forEach(draw);
  const redrawAll = () => document.querySelectorAll("[data-chart] .plot").forEach((box) => {
    const plot = plots.get(box);
    if (plot) { plot.destroy(); plots.delete(box); }
    draw(box.closest("[data-chart]"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);

  // ---- live parts ------------------------------------------------------------------------------------------------
  let open = [];
  const lost = (state) => {
    const toast = document.getElementById("toast");
    if (toast) { toast.textContent = state ? toast.dataset.lost : ""; toast.hidden = !state; }
    document.getElementById("live")?.classList.toggle("lost", state);
  };
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden && event.target.closest("[data-poll]")) event.preventDefault();
  });
  document.addEventListener("htmx:configRequest", (event) => {
    event.detail.headers["x-csrf-token"] = document.querySelector('meta[name="csrf"]')?.content ?? "";
  });
  document.addEventListener("htmx:beforeSwap", () => { open = [...document.querySelectorAll("details[open][id]")].map((one) => one.id); });
  document.addEventListener("htmx:afterSwap", () => {
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    drawAll();
    lost(false);
  });
  for (const name of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) document.addEventListener(name, () => lost(true));

  // ---- small comforts --------------------------------------------------------------------------------------------
  const copyText = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea"); // without https the clipboard API is closed
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };
  const say = (button) => {
    const label = button.querySelector("span");
    const before = label.textContent;
    label.textContent = button.dataset.done;
    setTimeout(() => { label.textContent = before; }, 1600);
  };
  window.tollway = { copyText, say };

  document.addEventListener("click", async (event) => {
    const copy = event.target.closest("[data-copy]");
    if (copy) { await copyText(document.querySelector(copy.dataset.copy).textContent); say(copy); }
    const add = event.target.closest("[data-add-row]");
    if (add) {
      const body = document.querySelector(add.dataset.addRow);
      const row = body.lastElementChild.cloneNode(true);
      row.querySelectorAll("input").forEach((one) => { one.value = one.name === "charge_model" ? "*" : ""; });
      body.append(row);
      row.querySelector("select").focus();
    }
  });
  document.addEventListener("change", (event) => { if (event.target.matches("[data-submit]")) event.target.form.requestSubmit(); });
  document.querySelectorAll("[data-add-row]").forEach((one) => { one.hidden = false; });
  document.querySelectorAll("[data-noscript]").forEach((one) => { one.hidden = true; });
  // On a telephone the navigation is one row that scrolls: the page one is on is brought into sight.
  const nav = document.querySelector(".main-nav"), here = nav?.querySelector("[aria-current]");
  if (here) nav.scrollLeft = here.offsetLeft - (nav.clientWidth - here.offsetWidth) / 2;
  drawAll();
})();
