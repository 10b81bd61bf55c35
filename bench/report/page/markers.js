// Shapes that tell policies apart without their colors: SVG paths around (0, 0).

function polygon(corners, radius, turn = 0) {
  const points = Array.from({ length: corners }, (_, index) => {
    const angle = turn + (2 * Math.PI * index) / corners - Math.PI / 2;
    return `${(radius * Math.cos(angle)).toFixed(2)},${(radius * Math.sin(angle)).toFixed(2)}`;
  });
  return `M${points.join("L")}Z`;
}

function star(points, outer, inner) {
  const corners = Array.from({ length: 2 * points }, (_, index) => {
    const radius = index % 2 ? inner : outer;
    const angle = (Math.PI * index) / points - Math.PI / 2;
    return `${(radius * Math.cos(angle)).toFixed(2)},${(radius * Math.sin(angle)).toFixed(2)}`;
  });
  return `M${corners.join("L")}Z`;
}

const CROSS = "M-1.6,-5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5V-1.6H-1.6Z";
const DIAGONAL = "M-4.6,-2.3L-2.3,-4.6L0,-2.3L2.3,-4.6L4.6,-2.3L2.3,0L4.6,2.3L2.3,4.6L0,2.3L-2.3,4.6L-4.6,2.3L-2.3,0Z";
const MARKERS = [
  "M-4.6,0A4.6,4.6 0 1 1 4.6,0A4.6,4.6 0 1 1 -4.6,0Z",
  star(5, 6.4, 2.9),
  "M-4.2,-4.2H4.2V4.2H-4.2Z",
  polygon(3, 5.8),
  polygon(4, 5.8),
  polygon(3, 5.8, Math.PI),
  CROSS,
  DIAGONAL,
  polygon(6, 5.2),
  polygon(3, 5.8, Math.PI / 2),
  polygon(3, 5.8, -Math.PI / 2),
  "M-4.6,-4.6H4.6L-4.6,4.6H4.6Z",
  polygon(5, 5.4),
  "M-4.6,-4.6V4.6L4.6,-4.6V4.6Z",
  star(4, 6.2, 2.4),
  "M-5.4,-2.6H5.4V2.6H-5.4Z",
];

function markerPath(policy) {
  return MARKERS[policy.marker % MARKERS.length];
}

function swatch(policy) {
  return svg(
    "svg",
    {
      class: policy.strong ? "swatch strong" : "swatch",
      width: 14,
      height: 14,
      viewBox: "-7 -7 14 14",
      "aria-hidden": "true",
      "--color": policy.color,
    },
    svg("path", { d: markerPath(policy) }),
  );
}
