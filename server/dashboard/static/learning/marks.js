// What is drawn behind and over the lines: stages of the horizon, and what was decided about versions.

const GOOD = new Set(["promote", "publish", "canary"]);

export function palette() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    series: [1, 2, 3, 4, 5, 6].map((number) => read(`--series-${number}`)),
    text: read("--muted"), strong: read("--text"), line: read("--line"), stage: read("--raised"), ground: read("--surface"),
    good: read("--good"), bad: read("--bad"),
  };
}

export function marksPlugin(stages, decisions, colors) {
  return {
    hooks: {
      drawClear: (u) => {
        const { ctx, bbox } = u;
        ctx.save();
        ctx.beginPath();
        ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
        ctx.clip();
        ctx.textAlign = "left";
        ctx.textBaseline = "alphabetic";
        ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
        stages.forEach(([from, to, horizon], number) => {
          const left = u.valToPos(from, "x", true);
          const right = u.valToPos(to, "x", true);
          if (number % 2) {
            ctx.fillStyle = colors.stage;
            ctx.fillRect(left, bbox.top, right - left, bbox.height);
          }
          if (stages.length > 1 && right - left > 34 * devicePixelRatio) {
            ctx.fillStyle = colors.text;
            ctx.fillText(`h ${horizon}`, Math.max(left, bbox.left) + 4 * devicePixelRatio, bbox.top + 12 * devicePixelRatio);
          }
        });
        ctx.restore();
      },
      draw: (u) => {
        const { ctx, bbox } = u;
        for (const { at, action } of decisions) {
          const x = u.valToPos(at, "x", true);
          if (x < bbox.left || x > bbox.left + bbox.width) continue;
          ctx.save();
          ctx.strokeStyle = GOOD.has(action) ? colors.good : colors.bad;
          ctx.lineWidth = 1.5 * devicePixelRatio;
          ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
          ctx.beginPath();
          ctx.moveTo(x, bbox.top);
          ctx.lineTo(x, bbox.top + bbox.height);
          ctx.stroke();
          ctx.restore();
        }
      },
    },
  };
}
