// Losses of the validation rows, over steps, by source, and by position in the row; probes.

function drawLossByPosition(parent, chart) {
  const newest = chart.readings.at(-1);
  const [low, high] = extent(newest.values);
  const plot = card(parent, chart, low === high ? figures(low) : `${figures(low)} – ${figures(high)}`);
  draw(() => {
    const traces = chart.readings.map((reading) => ({
      x: chart.buckets.map(([start, stop]) => (start + stop) / 2),
      y: reading.values,
      name: `step ${reading.step}`,
      mode: "lines+markers",
      text: chart.buckets.map(([start, stop]) => `tokens ${start} to ${stop - 1}`),
      hovertemplate: `step ${reading.step}, %{text}: %{y:.4g}<extra></extra>`,
      line: { color: color(reading === newest ? "accent" : "faint"), width: reading === newest ? 2 : 1.4 },
      marker: { size: 5 },
    }));
    Plotly.react(
      plot,
      traces,
      layout({
        showlegend: true,
        legend: { orientation: "h", y: -0.35 },
        xaxis: { title: { text: "token index in the row", standoff: 6 } },
        yaxis: valueAxis(extent(chart.readings.flatMap((reading) => reading.values))),
      }),
      CONFIG,
    );
  });
}

function drawEvaluation(parent, evaluation) {
  drawCharts(parent, evaluation.charts);
  drawSeries(parent, evaluation.sources, "source", { named: true });
  if (evaluation.positions) drawLossByPosition(parent, evaluation.positions);
  for (const each of evaluation.probes)
    drawSeries(parent, [each], "probe", { named: true, legend: each.curves.length <= MOST_IN_LEGENDS });
}
