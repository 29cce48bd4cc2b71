"use strict";
// A line at one time step in every figure over time steps, with the figure's values there in words.
(() => {
  const within = (value, count) => Math.max(0, Math.min(count - 1, value));
  // Cosines near 1 differ in late digits.
  const digits = (value) => (Math.abs(value) > 0.9 && Math.abs(value) <= 1 ? 5 : 3);
  const plain = (value) => (typeof value === "number" ? String(Number(value.toPrecision(digits(value)))) : value);
  const figures = [];
  let step = 0;

  class Figure {
    constructor(element, data) {
      this.data = data;
      this.region = element.querySelector(".wide");
      this.svg = element.querySelector("svg");
      this.said = element.querySelector(".said");
      this.line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      this.line.setAttribute("class", "cursor");
      this.svg.append(this.line);
      this.said.hidden = false;
      this.row = null;
      this.listen();
    }

    listen() {
      for (const kind of ["pointermove", "pointerdown"]) {
        this.svg.addEventListener(kind, (event) => this.point(event));
      }
      this.region.addEventListener("keydown", (event) => this.key(event));
      // Only the figure in use speaks: all of them at once could not be heard.
      this.region.addEventListener("focus", () => this.said.setAttribute("aria-live", "polite"));
      this.region.addEventListener("blur", () => this.said.removeAttribute("aria-live"));
    }

    // Where step k stands, as a share of the axes' width.
    share(k) {
      const { t, limits } = this.data;
      return limits ? (t[k] - limits[0]) / (limits[1] - limits[0]) : (k + 0.5) / t.length;
    }

    point(event) {
      const { box, t, rows } = this.data;
      const area = this.svg.getBoundingClientRect();
      const x = ((event.clientX - area.left) / area.width - box[0]) / (box[2] - box[0]);
      const y = ((event.clientY - area.top) / area.height - box[1]) / (box[3] - box[1]);
      if (x < -0.05 || x > 1.05 || y < 0 || y >= 1) return;
      if (rows) this.row = within(Math.floor(y * rows.length), rows.length);
      const far = t.map((_, k) => Math.abs(this.share(k) - x));
      go(far.indexOf(Math.min(...far)));
    }

    key(event) {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const [aside, down] = moves[event.key] ?? [0, 0];
      const rows = this.data.rows?.length ?? 0;
      if (!aside && !(down && rows)) return;
      event.preventDefault();
      if (down) this.row = within((this.row ?? this.worst()) + down, rows);
      go(within(step + aside, this.data.t.length));
      const left = this.svg.getBoundingClientRect().width * this.across();
      if (left < this.region.scrollLeft || left > this.region.scrollLeft + this.region.clientWidth) {
        this.region.scrollLeft = left - this.region.clientWidth / 2;
      }
    }

    across() {
      const { box } = this.data;
      return box[0] + this.share(step) * (box[2] - box[0]);
    }

    worst() {
      const values = this.data.rows.map((row) => row.values[step]);
      return values.indexOf(Math.min(...values));
    }

    show() {
      const { box, t, rows, series } = this.data;
      const { width, height } = this.svg.viewBox.baseVal;
      const ends = { x1: this.across() * width, x2: this.across() * width, y1: box[1] * height, y2: box[3] * height };
      for (const [name, value] of Object.entries(ends)) this.line.setAttribute(name, value);
      const at = rows ? [rows[this.row ?? this.worst()]] : series;
      const values = at.map(({ name, values }) => `${name} ${plain(values[step])}`);
      this.said.textContent = `t = ${t[step]}: ${values.join(", ")}`;
    }
  }

  const go = (k) => document.dispatchEvent(new CustomEvent("step", { detail: k }));
  document.addEventListener("step", ({ detail: k }) => {
    step = k;
    for (const figure of figures) figure.show();
  });
  for (const element of document.querySelectorAll(".plot")) {
    const data = element.querySelector('script[type="application/json"]');
    if (data) figures.push(new Figure(element, JSON.parse(data.textContent)));
  }
  if (figures.length) go(figures[0].data.t.length - 1);
})();
