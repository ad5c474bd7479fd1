// The latent map: a point per patient in two dimensions, and the place of the heart that is drawn.

import { element, written } from "./sliders.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [460, 270];
const [LEFT, RIGHT, TOP, BOTTOM] = [44, 12, 10, 38];
const SHAPES = [
  "M4.5 0A4.5 4.5 0 1 1-4.5 0A4.5 4.5 0 1 1 4.5 0Z",
  "M-4-4H4V4H-4Z",
  "M0-5L5 4H-5Z",
  "M0-5.5L5.5 0L0 5.5L-5.5 0Z",
  "M0 5L5-4H-5Z",
  "M-1.6-5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5V-1.6H-1.6Z",
  "M0-5.5L5.2-1.7L3.2 4.5H-3.2L-5.2-1.7Z",
  "M-5 0L-2.5-4.3H2.5L5 0L2.5 4.3H-2.5Z",
];
const RAMP = [[44, 111, 187], [143, 174, 158], [240, 162, 2]]; // low, middle, high
const UNKNOWN = "unknown";

/** An element of SVG. */
export function drawing(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Colour of a share in [0, 1]. */
function ramp(share) {
  const [from, to] = share < 0.5 ? [RAMP[0], RAMP[1]] : [RAMP[1], RAMP[2]];
  const part = share < 0.5 ? 2 * share : 2 * share - 1;
  return `rgb(${from.map((c, k) => Math.round(c + part * (to[k] - c))).join(" ")})`;
}

/** About four round numbers between two. */
function ticks(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const count = Math.floor(high / step) - Math.ceil(low / step) + 1;
  return Array.from({ length: count }, (_, k) => (Math.ceil(low / step) + k) * step);
}

export class LatentMap {
  /** `chosen` is called with the number of a case. */
  constructor(data, chosen) {
    Object.assign(this, { data, chosen, points: [], loaded: null, code: data.code.mean });
    this.svg = document.getElementById("map");
    this.legend = document.getElementById("legend");
    const dimensions = data.code.mean.map((_, d) => {
      const names = data.attributes.filter((a) => a.dimension === d).map((a) => a.name);
      return element("option", { value: d }, names.length ? `${d}, ${names.join(", ")}` : `${d}`);
    });
    this.selects = ["across", "up", "colour"].map((id) => document.getElementById(id));
    const [across, up, colour] = this.selects;
    across.append(...dimensions);
    up.append(...dimensions.map((option) => option.cloneNode(true)));
    const [first, second] = [...new Set([...data.attributes.map((a) => a.dimension), ...data.free])];
    across.value = first;
    up.value = second ?? first;
    for (const [value, text] of [["pathology", "Diagnosis"], ["vendor", "Vendor"], ["domain", "Domain"], ["split", "Split"]]) {
      if (new Set(data.cases.map((one) => one[value])).size > 1) colour.append(element("option", { value }, text));
    }
    data.attributes.forEach((a, k) => colour.append(element("option", { value: `value-${k}` }, a.name)));
    for (const select of this.selects) select.addEventListener("change", () => this.render());
    this.svg.addEventListener("click", (event) => this.click(event));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    this.render();
  }

  /** Colour, shape and group of each case, and the legend of it. */
  looks() {
    const { cases, attributes } = this.data;
    const by = this.selects[2].value;
    if (by.startsWith("value-")) {
      const k = Number(by.slice(6));
      const values = cases.map((one) => one.values[k]);
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const unit = attributes[k].unit;
      const bar = element("li", { className: "ramp" }, written(low, unit), element("i"), written(high, unit));
      this.legend.replaceChildren(bar);
      return values.map((value) => ({ shape: SHAPES[0], fill: ramp((value - low) / (high - low || 1)) }));
    }
    const groups = [...new Set(cases.map((one) => one[by] || UNKNOWN))].sort();
    const look = (k) => ({ shape: SHAPES[k % SHAPES.length], class: `group-${k % 8}` });
    this.legend.replaceChildren(
      ...groups.map((group, k) => {
        const count = cases.filter((one) => (one[by] || UNKNOWN) === group).length;
        const { shape, class: name } = look(k);
        const marker = drawing("svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true" }, drawing("path", { d: shape, class: name }));
        return element("li", {}, marker, `${group} (${count})`);
      }),
    );
    return cases.map((one) => look(groups.indexOf(one[by] || UNKNOWN)));
  }

  render() {
    const { cases } = this.data;
    const dimensions = this.selects.slice(0, 2).map((select) => Number(select.value));
    const ranges = dimensions.map((d) => {
      const codes = [...cases.map((one) => one.code[d]), this.data.code.mean[d]];
      const [low, high] = [Math.min(...codes), Math.max(...codes)];
      const room = 0.06 * (high - low) || 1;
      return [low - room, high + room];
    });
    const scale = ([low, high], from, to) => (value) => from + ((to - from) * (value - low)) / (high - low);
    this.x = scale(ranges[0], LEFT, WIDTH - RIGHT);
    this.y = scale(ranges[1], HEIGHT - BOTTOM, TOP);
    this.dimensions = dimensions;

    const frame = drawing("g", { class: "frame", "aria-hidden": "true" });
    for (const value of ticks(...ranges[0])) {
      const text = drawing("text", { x: this.x(value), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, String(+value.toPrecision(6)));
      frame.append(drawing("line", { x1: this.x(value), x2: this.x(value), y1: TOP, y2: HEIGHT - BOTTOM }), text);
    }
    for (const value of ticks(...ranges[1])) {
      const text = drawing("text", { x: LEFT - 6, y: this.y(value) + 4, "text-anchor": "end" }, String(+value.toPrecision(6)));
      frame.append(drawing("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: this.y(value), y2: this.y(value) }), text);
    }
    const names = this.selects.slice(0, 2).map((select) => `dimension ${select.selectedOptions[0].textContent}`);
    frame.append(
      drawing("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 5, "text-anchor": "middle" }, names[0]),
      drawing("text", { transform: `translate(12 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle" }, names[1]),
    );
    const looks = this.looks();
    this.points = cases.map((one, k) => {
      const { shape, fill, class: name } = looks[k];
      const point = drawing("path", {
        d: shape, class: `point ${name ?? ""}`, role: "button", tabindex: -1,
        transform: `translate(${this.x(one.code[dimensions[0]])} ${this.y(one.code[dimensions[1]])})`,
      }, drawing("title", {}, this.described(one)));
      if (fill) point.style.setProperty("fill", fill);
      return point;
    });
    this.cross = drawing("g", { class: "cross", "aria-hidden": "true" });
    this.svg.replaceChildren(frame, ...this.points, this.cross);
    this.show(this.code, this.loaded);
  }

  described(one) {
    const values = this.data.attributes.map((a, k) => `${a.name} ${written(one.values[k], a.unit)}`);
    return [one.case, one.pathology, one.vendor, ...values].filter(Boolean).join(", ");
  }

  /** Shows the place of the drawn heart, and the case it started from (null is none). */
  show(code, loaded) {
    this.code = code;
    const within = (value, low, high) => Math.max(low, Math.min(high, value));
    const x = within(this.x(code[this.dimensions[0]]), LEFT, WIDTH - RIGHT);
    const y = within(this.y(code[this.dimensions[1]]), TOP, HEIGHT - BOTTOM);
    this.cross.replaceChildren(
      drawing("path", { d: `M${x} ${TOP}V${HEIGHT - BOTTOM}M${LEFT} ${y}H${WIDTH - RIGHT}` }),
      drawing("circle", { cx: x, cy: y, r: 9 }),
    );
    if (loaded !== null) {
      const [cx, cy] = this.place(loaded);
      this.cross.append(drawing("circle", { cx, cy, r: 6.5, class: "home" })); // visible also below other points
    }
    if (loaded === this.loaded && this.points[0]?.hasAttribute("aria-pressed")) return;
    this.loaded = loaded;
    this.points.forEach((point, k) => {
      point.classList.toggle("loaded", k === loaded);
      point.setAttribute("aria-pressed", k === loaded);
      point.setAttribute("tabindex", k === (loaded ?? 0) ? 0 : -1);
    });
  }

  /** Places of the points in the picture, and how far each is from one. */
  place(k) {
    const code = this.data.cases[k].code;
    return [this.x(code[this.dimensions[0]]), this.y(code[this.dimensions[1]])];
  }

  nearest(x, y, allowed) {
    let [best, least] = [null, Infinity];
    for (let k = 0; k < this.points.length; k++) {
      const [px, py] = this.place(k);
      const distance = Math.hypot(px - x, py - y);
      if (distance < least && allowed(px - x, py - y, k)) [best, least] = [k, distance];
    }
    return best;
  }

  click(event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
    const k = this.nearest(at.x, at.y, (dx, dy) => Math.hypot(dx, dy) < 24);
    if (k !== null) this.chosen(k);
  }

  key(event) {
    const here = this.points.indexOf(document.activeElement);
    if (here < 0) return;
    const towards = {
      ArrowLeft: (dx, dy) => -dx > Math.abs(dy), ArrowRight: (dx, dy) => dx > Math.abs(dy),
      ArrowUp: (dx, dy) => -dy > Math.abs(dx), ArrowDown: (dx, dy) => dy > Math.abs(dx),
    }[event.key];
    if (towards) {
      const [x, y] = this.place(here);
      const next = this.nearest(x, y, (dx, dy, k) => k !== here && towards(dx, dy));
      if (next !== null) {
        this.points[here].setAttribute("tabindex", -1);
        this.points[next].setAttribute("tabindex", 0);
        this.points[next].focus();
      }
    } else if (event.key === "Enter" || event.key === " ") {
      this.chosen(here);
    } else {
      return;
    }
    event.preventDefault();
  }
}
