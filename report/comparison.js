// Tables of the runs and of their settings, and the runs' curves in one chart per metric.

function fillTable(table, rows, colored = false) {
  const [header = [], ...body] = rows;
  table.append(element("tr", {}, ...header.map((title) => element("th", { textContent: title }))));
  for (const cells of body) {
    const row = element("tr", {}, ...cells.map((cell) => element("td", { textContent: cell })));
    if (colored) {
      const swatch = element("span", { className: "swatch" });
      swatch.style.setProperty("--own", lineOf(run.order.indexOf(cells[0]), run.order.length, true).color);
      row.firstChild.prepend(swatch);
    }
    table.append(row);
  }
}

function comparison() {
  $("name").textContent = run.name;
  $("summary").textContent = run.summary;
  $("written").textContent = `Written ${run.written}. Drag over a chart to zoom in, double-click to zoom out.`;
  fillTable($("run-table"), run.runs, true);
  fillTable($("setting-table"), run.settings);
  $("settings").hidden = !run.settings.length;
  drawSeries($("steps"), run.steps, "run", true);
  let drawn = false; // a hidden chart has no width: drawn when it is first shown
  $("over").onchange = () => {
    const overTokens = $("over").value === "tokens";
    $("steps").hidden = overTokens;
    $("tokens").hidden = !overTokens;
    if (overTokens && !drawn) drawSeries($("tokens"), run.tokens, "run", true, "token");
    drawn ||= overTokens;
  };
  $("positions").hidden = !run.positions.length;
  drawSeries($("position-charts"), run.positions, "run", true);
  $("axis-x").onchange = () => redraws.forEach((redraw) => redraw());
  $("axis-y").onchange = $("axis-x").onchange;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", $("axis-x").onchange);
}

comparison();
