// A slider per attribute in its own unit, and per free dimension in standard deviations.

const SPOKEN = {
  "cm²": "square centimetres", mL: "millilitres", mm: "millimetres", g: "grams", "%": "percent",
  SD: "standard deviations",
};
const DIGITS = { "cm²": 1, mL: 0, mm: 1, g: 0, "%": 0, SD: 1 };

/** A number with the digits that suit its unit. */
export function number(value, unit) {
  const digits = DIGITS[unit] ?? 2;
  const rounded = Number(value.toFixed(digits)) || 0; // no minus before a zero
  return rounded.toFixed(digits).replace("-", "−");
}

/** The same with its sign. */
export function signed(value, unit) {
  const text = number(value, unit);
  return Number(text) > 0 ? `+${text}` : text;
}

export const written = (value, unit) => `${number(value, unit)} ${unit}`;

/** What a code asks for, on the line through the training patients; no size is below 0. */
export const asked = ({ intercept, slope, dimension }, code) =>
  Math.max(0, intercept + slope * code[dimension]);

/** The place of the dimension that stands for a value, on the same line. */
export const coded = ({ intercept, slope }, value) => (value - intercept) / slope;

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Label, number and range: `read` takes a value from a code, `write` makes the place of the dimension. */
function slider({ id, title, subtitle, unit, range, show, read, write, moved }) {
  const [low, high] = range;
  const step = 10 ** -(DIGITS[unit] ?? 2);
  const input = element("input", { type: "range", id, step });
  input.min = Math.floor(low / step) * step;
  input.max = Math.ceil(high / step) * step;
  const shown = element("output", { htmlFor: id });
  const label = element("label", { htmlFor: id }, title, " ", element("small", {}, subtitle));
  const box = element("div", { className: "slider" }, label, shown, input);

  const put = (value) => {
    shown.value = show(value, unit);
    input.setAttribute("aria-valuetext", `${number(value, unit)} ${SPOKEN[unit] ?? unit}`);
  };
  input.addEventListener("input", (event) => {
    put(input.valueAsNumber);
    moved(write(input.valueAsNumber), event.timeStamp);
  });
  return {
    box,
    input,
    update(code) {
      if (document.activeElement !== input || Math.abs(input.valueAsNumber - read(code)) > step) {
        input.value = read(code);
      }
      put(read(code));
    },
  };
}

/** A line below a slider: a band of usual values, and a mark at the value of the start. */
function marksBelow(input) {
  const marks = element("span", { className: "marks" });
  marks.setAttribute("aria-hidden", "true");
  const [usual, own] = ["usual", "own"].map((className) => element("i", { className }));
  marks.append(usual, own);
  const place = (value) => (100 * (value - input.min)) / (input.max - input.min);
  return {
    marks,
    band(low, high) {
      usual.style.setProperty("left", `${place(low)}%`);
      usual.style.setProperty("width", `${place(high) - place(low)}%`);
    },
    at(value) {
      own.hidden = value === null;
      if (value !== null) own.style.setProperty("left", `${place(value)}%`);
    },
  };
}

/** A line of text that may change, in a box as high as its longest text: nothing below it moves. */
function steadyText(id, longest) {
  const text = element("span", { id });
  const ghost = element("span", { className: "ghost" }, longest);
  ghost.setAttribute("aria-hidden", "true");
  return { text, box: element("p", { className: "note" }, text, ghost) };
}

/** Slider of an attribute. */
export function attributeSlider(attribute, all, cases, moved, drawnUnit = "cm²") {
  const { name, long, kind, unit, dimension, slope, low, high, usual } = attribute;
  const reads = cases.map((one) => asked(attribute, one.code));
  const range = [Math.min(low, ...reads), Math.max(high, ...reads)];
  const made = slider({
    id: `attribute-${name}`,
    title: name,
    subtitle: long,
    unit,
    range,
    show: written,
    read: (code) => asked(attribute, code),
    write: (value) => coded(attribute, value),
    moved: (place, time) => moved(dimension, place, time),
  });
  const { marks, band, at } = marksBelow(made.input);
  const shared = all.filter((other) => other !== attribute && other.dimension === dimension);
  const partners = shared.map((other) => other.name).join(", ");

  /** Asked beside drawn: an area can be measured on the slice; a volume, its mass and what a
   * ventricle ejects of it on a stack; of others the slice shows a part, its size. */
  const stack = drawnUnit === "mL";
  const ejected = stack ? attribute.ejected : null;
  const density = stack ? attribute.density : null;
  const complete = ejected || density || kind === (stack ? "volume" : "area");
  const measured = (sizes) => {
    if (density) return written(density * sizes[attribute.column], unit);
    if (!ejected) return written(sizes[attribute.column], drawnUnit);
    const [before, after] = ejected.map((column) => sizes[column]);
    return before > 0 ? written(100 * (1 - after / before), unit) : "nothing";
  };
  const described = (value, drawn, own, outside) => {
    const parts = [slope === 0 ? "depends on no dimension of this model" : `asked ${written(value, unit)}`];
    if (slope !== 0) parts[0] += `, drawn ${drawn}${complete ? "" : " here"}`;
    if (own !== null) parts.push(`start ${written(own, unit)}`);
    if (outside) parts.push("no training patient had this");
    if (partners) parts.push(`moves with ${partners}: the same dimension`);
    return parts.join(" · ");
  };
  const widest = Math.max(...range.map(Math.abs), 100);
  const note = steadyText(`attribute-${name}-note`, described(-widest, `100.0 ${drawnUnit}`, widest, true));
  made.box.append(marks, note.box);
  made.input.setAttribute("aria-describedby", note.text.id);
  band(...usual);
  made.input.disabled = slope === 0;
  made.measured = measured;

  made.tell = (code, sizes, own) => {
    const value = asked(attribute, code);
    const seen = sizes === null ? "…" : measured(sizes);
    note.text.textContent = described(value, seen, own, value < low || value > high);
    at(own);
  };
  return made;
}

/** Slider of a dimension that stands for no attribute. */
export function freeSlider(dimension, mean, deviation, reach, moved) {
  const made = slider({
    id: `dimension-${dimension}`,
    title: `Dimension ${dimension}`,
    subtitle: `SD ${deviation.toPrecision(2)}`,
    unit: "SD",
    range: [-reach, reach],
    show: (value, unit) => `${signed(value, unit)} ${unit}`,
    read: (code) => (deviation > 0 ? (code[dimension] - mean) / deviation : 0),
    write: (value) => mean + value * deviation,
    moved: (place, time) => moved(dimension, place, time),
  });
  return made;
}
