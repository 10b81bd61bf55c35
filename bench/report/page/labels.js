// Where names stand in a chart: near the end of their curve, on as few marks, curves and other names as can be.

const LABEL_FONT = "600 13px"; // as in the style sheet
const LABEL_HEIGHT = 16;
const LAST_MARKS = 3; // of a curve; its name is beside one of them

const measuring = document.createElement("canvas").getContext("2d");

function labelWidth(text) {
  measuring.font = `${LABEL_FONT} ${getComputedStyle(document.body).fontFamily}`;
  return measuring.measureText(text).width;
}

function boxOf(x, y, width) {
  return { left: x - width, right: x, top: y - LABEL_HEIGHT + 4, bottom: y + 4 };
}

function contains(box, { left, top }, room) {
  return left > box.left - room && left < box.right + room && top > box.top - room && top < box.bottom + room;
}

function overlap(a, b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

/** Points along a curve, close enough to notice that it runs through a name. */
function along(marks) {
  return marks
    .slice(1)
    .flatMap((mark, index) =>
      Array.from({ length: 12 }, (_, step) => ({
        left: marks[index].left + ((mark.left - marks[index].left) * step) / 12,
        top: marks[index].top + ((mark.top - marks[index].top) * step) / 12,
      })),
    );
}

/** Places beside a mark: [right end, base line], better ones first. */
function placesBeside({ left, top }, width) {
  return [
    [left + 6, top - 13],
    [left - 12, top + 4],
    [left + 6, top + 24],
    [left + 14 + width, top + 16],
    [left + 6, top - 29],
    [left + 6, top + 40],
  ];
}

/**
 * The best place, as {x, y} of the text's end, for the name of each curve.
 * `curves` are [name, marks in order of x], `marks` all marks of the chart, `frame` what names have to
 * stay in, `obstacles` boxes of other text.
 */
function placeLabels(curves, marks, frame, obstacles) {
  const strokes = curves.map(([, own]) => along(own));
  const taken = [...obstacles];
  return curves.map(([name, own], curve) => {
    const width = labelWidth(name);
    const candidates = own
      .slice(-LAST_MARKS)
      .reverse()
      .flatMap((mark, back) =>
        placesBeside(mark, width).map(([right, y], index) => {
          const x = Math.max(frame.left + width, right);
          const box = boxOf(x, y, width);
          const isOutside = box.top < frame.top || box.bottom > frame.bottom || box.right > frame.right;
          const covered = marks.filter((other) => contains(box, other, 5));
          const cost =
            (isOutside ? 100 : 0) +
            20 * taken.filter((other) => overlap(box, other)).length +
            covered.reduce((sum, other) => sum + (other.policy.strong ? 8 : 2), 0) +
            strokes.reduce(
              (sum, points, other) =>
                sum + (other === curve ? 0.35 : 0.7) * points.filter((point) => contains(box, point, 1)).length,
              0,
            );
          return { x, y, box, cost: cost + 0.3 * index + 1.5 * back };
        }),
      );
    const best = candidates.reduce((a, b) => (b.cost < a.cost ? b : a));
    taken.push(best.box);
    return best;
  });
}
