// Draws the charts of the page from the numbers in it. All numbers are those of the JSON; what is
// computed here is their place on the screen.
(() => {
    "use strict";
    const page = JSON.parse(document.getElementById("numbers").textContent);
    const root = document.documentElement;
    const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
    const DASHES = [[], [8, 4], [2, 3]];
    const HEIGHT = 260;
    const AXIS_WIDTH = 64;
    // Room for half of the last label, in pixels, and the least distance between two labels.
    const MARGIN = 24;
    const LABEL_WIDTH = 58;

    const trimmed = (value, digits) => String(Number(value.toPrecision(digits)));
    const scaled = (value, digits, units) => {
        const [size, unit] = units.find(([size]) => Math.abs(value) >= size) ?? units.at(-1);
        return trimmed(value / size, digits) + unit;
    };
    const TIMES = [[60e9, "m"], [1e9, "s"], [1e6, "ms"], [1e3, "us"], [1, "ns"]];
    const COUNTS = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
    const time = (digits) => (nanos) => (nanos === 0 ? "0" : scaled(nanos, digits, TIMES));
    const count = (digits) => (value) => scaled(value, digits, COUNTS);
    const quantity = { time, count, rate: (digits) => (value) => count(digits)(value) + "/s" };

    // How the numbers of the x axis become places, and places become labels.
    const decades = (percentile) => -Math.log10(1 - percentile / 100);
    const percentile = (place) => 100 - 100 / 10 ** place;
    const percentText = (place) => trimmed(percentile(place), Math.max(3, Math.ceil(place) + 2)) + " %";
    const AXES = {
        percentile: {
            place: decades,
            label: percentText,
            splits: (u, nth, min, max) =>
                [0, decades(50), ...Array(20).keys()].filter(
                    (at, nth) => (nth < 2 || at > 0) && at >= min && at <= max),
        },
        percent: { place: (value) => value, label: (place) => trimmed(place, 3) + " %" },
        seconds: { place: (nanos) => nanos / 1e9, label: (place) => trimmed(place, 6) + " s" },
        count: { place: (value) => value, label: count(4) },
        rate: { place: (rate) => rate, label: count(4), value: (rate) => trimmed(rate, 9) + "/s" },
    };

    const range = (kind) => (u, min, max) => {
        if (kind !== "time") {
            return [0, max > 0 ? max * 1.08 : 1];
        }
        // A log axis has no zero.
        const low = min > 0 ? min : 1;
        return uPlot.rangeLog(low, Math.max(max, low), 10, false);
    };

    // Labels that would overlap the one before are left out.
    const spaced = (label) => (u, splits) => {
        let last = -Infinity;
        return splits.map((at) => {
            const x = u.valToPos(at, "x");
            if (x - last < LABEL_WIDTH) {
                return "";
            }
            last = x;
            return label(at);
        });
    };

    function options(chart, width) {
        const axis = AXES[chart.x_kind];
        const colours = style("--series").split(" ");
        const [text, line] = [style("--faint"), style("--line")];
        const lines = { stroke: line, width: 1 };
        const point = { show: true, size: 10, width: 2 };
        const POINTS = { full: { ...point, fill: (u, nth) => u.series[nth].stroke(u, nth) }, empty: point };
        const shown = (digits) => quantity[chart.y_kind](digits);
        const series = chart.series.map(({ label, shape }, nth) => ({
            label,
            stroke: colours[nth % colours.length],
            width: 1.5,
            dash: DASHES[Math.floor(nth / colours.length) % DASHES.length],
            spanGaps: true,
            value: (u, value) => (value == null ? "–" : shown(4)(value)),
            ...(POINTS[shape] && { paths: () => null, points: POINTS[shape] }),
        }));
        return {
            width,
            height: HEIGHT,
            padding: [8, MARGIN, 0, 0],
            scales: {
                x: { time: false },
                y: { distr: chart.y_kind === "time" ? 3 : 1, range: range(chart.y_kind) },
            },
            axes: [
                {
                    stroke: text,
                    grid: lines,
                    ticks: lines,
                    splits: axis.splits,
                    values: spaced(axis.label),
                },
                {
                    stroke: text,
                    grid: lines,
                    ticks: lines,
                    size: AXIS_WIDTH,
                    values: (u, splits) => splits.map((at) => (at == null ? "" : shown(3)(at))),
                },
            ],
            series: [
                { label: chart.x_label, value: (u, at) => (at == null ? "–" : (axis.value ?? axis.label)(at)) },
                ...series,
            ],
            // One crosshair over all charts with the same axis.
            cursor: { sync: { key: chart.x_kind, setSeries: false } },
        };
    }

    const charts = [];

    function draw() {
        charts.splice(0).forEach((drawn) => drawn.destroy());
        for (const chart of page.charts) {
            const at = document.getElementById("chart-" + chart.id);
            const places = page.axes[chart.axis].map(AXES[chart.x_kind].place);
            const data = [places, ...chart.series.map(({ values }) => values)];
            at.uplot = new uPlot(options(chart, at.clientWidth), data, at);
            charts.push(at.uplot);
        }
    }

    function fit() {
        page.charts.forEach((chart, nth) => {
            const width = document.getElementById("chart-" + chart.id).clientWidth;
            if (width !== charts[nth].width) {
                charts[nth].setSize({ width, height: HEIGHT });
            }
        });
    }

    draw();
    addEventListener("resize", fit);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    // Paper is white, and narrower than most windows.
    addEventListener("beforeprint", () => { root.classList.add("printed"); draw(); });
    addEventListener("afterprint", () => { root.classList.remove("printed"); draw(); });
})();
