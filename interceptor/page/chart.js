// A small chart: how much was allowed and refused over the last ten minutes.

import { count } from './text.js';

const SVG = 'http://www.w3.org/2000/svg';
const [WIDTH, HEIGHT, GAP] = [300, 72, 1.5];

function shape(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Draws the buckets into a place. */
export class Chart {
  constructor(place, buckets) {
    this.svg = shape('svg', {
      viewBox: `0 0 ${WIDTH} ${HEIGHT + 4}`, role: 'img', preserveAspectRatio: 'none',
    });
    this.svg.append(shape('line', {
      x1: 0, x2: WIDTH, y1: HEIGHT + 0.5, y2: HEIGHT + 0.5, class: 'axis',
    }));
    const width = WIDTH / buckets - GAP;
    this.bars = Array.from({ length: buckets }, (_, index) => {
      const x = index * (width + GAP);
      const bars = ['good', 'bad'].map((kind) =>
        shape('rect', { x, width, y: HEIGHT, height: 0, rx: 1, class: `bar-${kind}` }));
      this.svg.append(...bars);
      return bars;
    });
    place.replaceChildren(this.svg);
  }

  draw(buckets) {
    const most = Math.max(1, ...buckets.map((bucket) => bucket.allow + bucket.deny));
    let [allowed, refused] = [0, 0];
    buckets.forEach((bucket, index) => {
      allowed += bucket.allow;
      refused += bucket.deny;
      // What there is can be seen, however much there is of the rest.
      const high = (number) => (number === 0 ? 0 : Math.max(2, (number / most) * (HEIGHT - 4)));
      const [good, bad] = [high(bucket.allow), high(bucket.deny)];
      this.bars[index][0].setAttribute('y', HEIGHT - good);
      this.bars[index][0].setAttribute('height', good);
      this.bars[index][1].setAttribute('y', HEIGHT - good - bad);
      this.bars[index][1].setAttribute('height', bad);
    });
    this.svg.setAttribute('aria-label', `${count(allowed, 'request')} allowed and `
      + `${refused.toLocaleString('en')} refused in the last 10 minutes`);
  }
}
