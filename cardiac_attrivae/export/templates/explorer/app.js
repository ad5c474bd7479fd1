// The explorer: the state of the page, and what happens when a slider is moved.

import { LatentMap, drawing } from "./map.js";
import { Model, newest } from "./model.js";
import * as pictures from "./pictures.js";
import { asked, attributeSlider, element, freeSlider, number, signed, written } from "./sliders.js";

const SHOWN = 8; // free dimensions before the others fold away
const REST = 80; // ms without a new picture before the last one is measured
const $ = (id) => document.getElementById(id);

const same = (one, other) => one.every((value, k) => value === other[k]);

function fail(error) {
  $("failed").textContent = `The explorer has stopped: ${error.message}`;
  $("failed").hidden = false;
  $("waiting").hidden = true;
}

async function fetched(file) {
  const response = await fetch(file);
  if (!response.ok) throw new Error(`${file} answers ${response.status}`);
  return response;
}

/** Slices and masks of all cases: bytes, N x channels x H x W each, one after the other, deflated. */
async function slicesOf(data) {
  const { body } = await fetched("cases.bin");
  const plain = await new Response(body.pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
  const [bytes, pixels] = [new Uint8Array(plain), data.channels.length * data.size ** 2];
  const masks = data.cases.length * pixels;
  return data.cases.map((_, k) => ({
    image: Float32Array.from(bytes.subarray(k * pixels, (k + 1) * pixels), (grey) => grey / 255),
    labels: bytes.subarray(masks + k * pixels, masks + (k + 1) * pixels),
  }));
}

class Desk {
  constructor(data, decoder) {
    Object.assign(this, { data, decoder, slices: null, segmenter: null, channel: 0 });
    this.colours = pictures.ORDER.map((structure) => data.structures[structure].colour);
    this.draw = newest((time) => this.drawNow(time));
    this.measure = newest(() => this.measureNow());
    this.build();
  }

  /** Builds what is made of the data once. */
  build() {
    const { data } = this;
    const people = data.patients === data.cases.length ? "" : `, ${data.cases.length} of them shown`;
    $("about").textContent =
      `${data.method}, trained on ${data.dataset}, seed ${data.seed}. ${data.patients} ${data.generated ? "generated hearts, no patient's" : "patients"}${people}.`;
    $("synthetic").hidden = !data.synthetic;
    const dice = data.structures.map(({ name }) => `${name} ${data.segmenter.dice[name].toFixed(2)}`);
    $("segmenter").textContent =
      "Originals are measured by their masks, all else by a small U-Net in this browser. On " +
      `${data.segmenter.patients} patients that it was not trained on, its Dice is ${dice.join(", ")}.`;
    $("shown").textContent = `A point is a ${data.generated ? "generated heart" : "patient"}; click one to load it. The red ring is the heart that is drawn, the dark ring where it started.`;

    const moved = (dimension, place, time) => {
      this.code[dimension] = place;
      this.changed(time);
    };
    this.attributes = data.attributes.map((a) => attributeSlider(a, data.attributes, data.cases, moved, data.unit));
    const { mean, deviation } = data.code;
    this.free = data.free.map((d) => freeSlider(d, mean[d], deviation[d], data.reach, moved));
    $("attributes").append(...this.attributes.map((one) => one.box));
    $("free").append(...this.free.slice(0, SHOWN).map((one) => one.box));
    const rest = this.free.slice(SHOWN).map((one) => one.box);
    $("rest").hidden = !rest.length;
    $("rest").firstElementChild.textContent = `${rest.length} more`;
    $("rest").lastElementChild.append(...rest);

    if (data.slices > 1) {
      $("size").textContent = `Volume, ${data.unit}`;
      $("measured-title").textContent = "Measured on this stack";
    }
    $("areas").append(
      ...data.structures.map(({ long, colour }) => {
        const swatch = element("i", { className: "swatch" });
        swatch.style.setProperty("background", colour);
        const head = element("th", { scope: "row" }, swatch, long);
        return element("tr", {}, head, ...Array.from({ length: 4 }, () => element("td")));
      }),
    );
    for (const svg of document.querySelectorAll(".stage svg")) {
      svg.setAttribute("viewBox", `0 0 ${data.size} ${data.size}`);
      svg.append(...this.colours.map((stroke) => drawing("path", { stroke })));
    }
    $("phase").append(...data.channels.map((name, k) => element("option", { value: k }, name)));
    $("phase").parentElement.hidden = data.channels.length === 1;
    $("phase").addEventListener("change", () => {
      this.channel = Number($("phase").value);
      this.paint();
      this.tell();
    });
    const facts = (one) => [one.case, one.pathology, one.vendor, one.split].filter(Boolean).join(" · ");
    $("case").append(
      element("option", { value: "" }, "mean of the training patients"),
      ...data.cases.map((one, k) => element("option", { value: k }, facts(one))),
    );
    $("case").addEventListener("change", () => this.load($("case").value === "" ? null : Number($("case").value)));
    $("reset").addEventListener("click", () => this.load(this.start.k));
    $("outlines").addEventListener("change", () => this.paint());
    $("beside").addEventListener("change", () => this.paint());
    $("download").addEventListener("click", () => this.download());
    this.map = new LatentMap(data, (k) => this.load(k));
  }

  /** Starts from a case, or from the mean code (null). */
  load(k) {
    const one = k === null ? null : this.data.cases[k];
    const beside = $("beside");
    for (const option of beside.options) option.disabled = !one && option.value.endsWith("original");
    if (beside.selectedOptions[0].disabled) beside.value = "from-start";
    else if (one && !this.start?.one) beside.value = "original";
    // picture, labels and areas of the reconstruction follow with the first draw
    this.start = { k, one, code: one?.code ?? this.data.code.mean, image: null, labels: null, areas: null };
    this.code = [...this.start.code];
    $("case").value = k ?? "";
    $("start-name").textContent = one?.case ?? "mean of the training patients";
    return this.changed();
  }

  /** The code was moved: redraws what depends on it. */
  changed(time = performance.now()) {
    $("areas").ariaBusy = "true";
    for (const slider of [...this.attributes, ...this.free]) slider.update(this.code);
    this.map.show(this.code, this.start.k);
    return this.draw(time).catch(fail);
  }

  async drawNow(time) {
    const [start, code] = [this.start, [...this.code]];
    start.image ??= await this.decoder.run(start.code, code.length);
    const image = same(code, start.code) ? start.image : await this.decoder.run(code, code.length);
    if (start !== this.start) return; // another case was loaded meanwhile
    this.drawn = { code, image, labels: this.drawn?.labels, areas: null };
    this.paint();
    performance.measure("redraw", { start: time, end: performance.now() });
    this.tell();
    clearTimeout(this.resting); // while a slider moves, nothing else is computed
    this.resting = setTimeout(() => this.measure().catch(fail), REST);
  }

  async measureNow() {
    const { drawn, start } = this;
    if (!this.segmenter || !start.image) return;
    if (!start.areas) Object.assign(start, await this.segmented(start.image));
    const found = drawn.image === start.image ? start : await this.segmented(drawn.image);
    if (start !== this.start) return;
    Object.assign(drawn, { labels: found.labels, areas: found.areas });
    if (drawn === this.drawn && same(drawn.code, this.code)) $("areas").ariaBusy = "false";
    this.paint();
    this.tell();
  }

  async segmented(image) {
    const { size, channels, slices, structures, pixel } = this.data;
    const labels = new Uint8Array(image.length);
    // of the structures at ED, then at ES: areas, or volumes of the slices of a stack
    const areas = new Array((structures.length * channels.length) / slices).fill(0);
    for (let channel = 0; channel < channels.length; channel++) {
      const logits = await this.segmenter.run(this.part(image, channel), 1, size, size);
      const found = pictures.labelled(logits, size ** 2);
      labels.set(found, channel * size ** 2);
      const first = Math.floor(channel / slices) * structures.length;
      pictures.areas(found, structures.length, pixel).forEach((area, k) => (areas[first + k] += area));
    }
    return { labels, areas };
  }

  /** The pixels of one channel, the one that is shown. */
  part(pixels, channel = this.channel) {
    const count = this.data.size ** 2;
    return pixels?.subarray(channel * count, (channel + 1) * count);
  }

  /** Where the structures of the phase that is shown begin among those of all phases. */
  get first() {
    return Math.floor(this.channel / this.data.slices) * this.data.structures.length;
  }

  paint() {
    const { data, drawn, start } = this;
    if (!start.image) return;
    const now = this.part(drawn.image);
    pictures.slice($("drawn"), now, data.size);
    const [canvas, beside] = [$("compared"), $("beside").value];
    const original = this.slices?.[start.k];
    const other = this.part(beside.endsWith("original") ? original?.image : start.image);
    const nothing = new Float32Array(data.size ** 2); // until the originals are there
    if (beside.startsWith("from-")) pictures.difference(canvas, now, other ?? now, data.size);
    else pictures.slice(canvas, other ?? nothing, data.size);
    $("scale").hidden = !beside.startsWith("from-");
    canvas.setAttribute("aria-label", $("beside").selectedOptions[0].textContent);
    const labels = { original: original?.labels, start: start.labels }[beside];
    this.outline($("drawn-lines"), drawn.labels, drawn.areas === null);
    this.outline($("compared-lines"), labels);
  }

  /** Outlines above a picture; pale while they belong to the picture before. */
  outline(svg, labels, late = false) {
    svg.classList.toggle("late", late);
    const shown = $("outlines").checked ? labels : undefined;
    if (svg.shown === shown && svg.channel === this.channel) return;
    Object.assign(svg, { shown, channel: this.channel });
    const paths = shown ? pictures.outlines(this.part(shown), this.data.size) : [];
    svg.querySelectorAll("path").forEach((path, k) => path.setAttribute("d", paths[k] ?? ""));
  }

  /** Shows the numbers: what was asked for, and what is measured. */
  tell() {
    const { data, drawn, start } = this;
    const { one } = start;
    data.attributes.forEach((_, k) => {
      this.attributes[k].tell(this.code, drawn.areas, one?.values[k] ?? null);
    });
    data.structures.forEach((_, k) => {
      const at = this.first + k;
      const [now, before] = [drawn.areas?.[at], start.areas?.[at]]; // or not measured yet
      const known = now !== undefined && before !== undefined;
      const cells = [one?.areas[at], before, now].map((area) => (area === undefined ? "…" : number(area, data.unit)));
      if (!one) cells[0] = "–";
      cells.push(known ? signed(now - before, data.unit) : "…");
      const row = $("areas").rows[k];
      cells.forEach((text, c) => (row.cells[c + 1].textContent = text));
    });
    clearTimeout(this.speaking);
    if (drawn.areas) this.speaking = setTimeout(() => this.speak(), 700);
  }

  /** Tells screen readers, once nothing has moved for a moment. */
  speak() {
    const { areas } = this.drawn;
    if (!areas) return;
    const parts = this.data.structures.map(({ long }, k) => `${long} ${areas[this.first + k].toFixed(1)}`);
    $("spoken").textContent = `Drawn, in ${this.data.unit === "mL" ? "millilitres" : "square centimetres"}: ${parts.join(", ")}`;
    $("drawn").setAttribute("aria-label", `The slice that the model draws. ${$("spoken").textContent}`);
  }

  async download() {
    const { data, drawn } = this;
    const lines = data.attributes.map((attribute, k) => {
      const area = drawn.areas ? `, drawn ${this.attributes[k].measured(drawn.areas)}` : "";
      return `${attribute.name}: asked ${written(asked(attribute, this.code), attribute.unit)}${area}`;
    });
    const origin = data.synthetic ? " of synthetic hearts" : "";
    lines.push(`Made by ${data.method}, a model${origin} trained on ${data.dataset}. For research only.`);
    const captions = [`Drawn, from ${$("start-name").textContent}`, $("beside").selectedOptions[0].textContent];
    const shown = ["drawn", "compared"].map((id, k) => {
      const paths = [...$(`${id}-lines`).children].map((path) => path.getAttribute("d") ?? "");
      return { canvas: $(id), caption: captions[k], paths, colours: this.colours };
    });
    const picture = await pictures.sheet(shown, lines);
    const link = element("a", { href: URL.createObjectURL(picture), download: "heart.png" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}

async function open() {
  const decoder = new Model("decoder.onnx");
  decoder.ready.catch(() => {}); // shown below, once
  const data = await (await fetched("data.json")).json();
  const desk = new Desk(data, decoder);
  await decoder.ready;
  $("waiting").hidden = true;
  $("desk").hidden = false;
  await desk.load(data.start);
  performance.measure("first-picture", { start: 0, end: performance.now() });

  desk.slices = await slicesOf(data);
  desk.paint();
  const segmenter = new Model("segmenter.onnx");
  await segmenter.ready;
  desk.segmenter = segmenter;
  await desk.measure();
  document.body.dataset.ready = "yes";
}

open().catch(fail);
