// A chart as PNG or CSV.

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const fileName = (title, run, ending) => `${title.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-")}-${run}.${ending}`;

export function savePng(u, title, run, colors) {
  const drawn = u.ctx.canvas;
  const scale = devicePixelRatio;
  const canvas = document.createElement("canvas");
  canvas.width = drawn.width;
  canvas.height = drawn.height + 48 * scale;
  const ctx = canvas.getContext("2d");
  ctx.fillStyle = colors.ground;
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  ctx.fillStyle = colors.strong;
  ctx.font = `600 ${14 * scale}px system-ui, sans-serif`;
  ctx.fillText(`${title}, ${run}`, 8 * scale, 20 * scale);
  ctx.font = `${12 * scale}px system-ui, sans-serif`;
  let x = 8 * scale;
  for (const series of u.series.slice(1)) {
    if (!series.show) continue;
    ctx.fillStyle = series.tone;
    ctx.fillRect(x, 30 * scale, 10 * scale, 10 * scale);
    ctx.fillStyle = colors.text;
    ctx.fillText(series.label, x + 14 * scale, 39 * scale);
    x += ctx.measureText(series.label).width + 30 * scale;
  }
  ctx.drawImage(drawn, 0, 48 * scale);
  canvas.toBlob((blob) => save(blob, fileName(title, run, "png")), "image/png");
}

// A text that a spreadsheet could take for a formula begins with an apostrophe.
const cell = (value) => {
  if (value == null) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return `"${text.replaceAll('"', '""')}"`;
};

export function saveCsv(u, title, run, axis) {
  const rows = [[axis, ...u.series.slice(1).map((series) => series.label)].map(cell).join(",")];
  u.data[0].forEach((x, at) => rows.push([x, ...u.data.slice(1).map((values) => values[at])].map(cell).join(",")));
  save(new Blob([`${rows.join("\r\n")}\r\n`], { type: "text/csv" }), fileName(title, run, "csv"));
}
