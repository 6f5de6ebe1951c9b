//! The charts of a page as numbers: what is on the axes, and the series. The script of the page
//! draws them.

use serde::Serialize;
use serde_json::{Number, Value, json};

/// What an axis counts. The script formats it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantity {
    /// In percent, on an axis on which each step is a tenth of the distance to 100 %.
    Percentile,
    /// In percent, on a linear axis.
    Percent,
    /// In nanoseconds since the start of the measured period.
    Seconds,
    /// Per second.
    Rate,
    /// In nanoseconds, on a logarithmic axis.
    Time,
    Count,
}

/// What is said about a chart.
#[derive(Clone, Copy)]
pub struct Frame {
    /// Its name in the page.
    pub id: &'static str,
    pub title: &'static str,
    /// What is to be known about it.
    pub about: &'static str,
    /// What the x axis counts, in words.
    pub x_label: &'static str,
    pub x_kind: Quantity,
    pub y_kind: Quantity,
}

/// A chart.
pub struct Chart {
    pub frame: Frame,
    /// In ascending order. All series have a value or none at each of these.
    pub x: Vec<f64>,
    pub series: Vec<Series>,
}

/// A line of a chart, or points.
#[derive(Clone, Debug)]
pub struct Series {
    pub label: String,
    pub values: Vec<Option<f64>>,
    pub shape: Shape,
}

/// How the values of a series are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    Line,
    /// Single points that are filled.
    Full,
    /// Single points that are empty inside.
    Empty,
}

impl Chart {
    /// A chart of lines, each with its points in ascending order. A line has no value where only
    /// others have a point.
    pub fn of_lines(frame: Frame, lines: Vec<(String, Vec<(f64, f64)>)>) -> Chart {
        let mut x: Vec<f64> =
            lines.iter().flat_map(|(_, points)| points).map(|(x, _)| *x).collect();
        x.sort_by(f64::total_cmp);
        x.dedup();
        let series = |(label, points): (String, Vec<(f64, f64)>)| {
            let mut values = vec![None; x.len()];
            for (at, value) in points {
                let nth = x.binary_search_by(|x| x.total_cmp(&at)).expect("it is one of them");
                values[nth] = Some(value);
            }
            Series { label, values, shape: Shape::Line }
        };
        let series = lines.into_iter().map(series).collect();
        Chart { frame, x, series }
    }

    /// Whether there is something to draw.
    pub fn has_values(&self) -> bool {
        self.series.iter().any(|series| series.values.iter().any(Option::is_some))
    }
}

/// The charts for the script. Equal x axes are there once.
pub fn numbers(charts: &[Chart]) -> Value {
    let mut axes: Vec<&[f64]> = Vec::new();
    let mut of_charts = Vec::new();
    for chart in charts {
        let axis = axes.iter().position(|axis| *axis == chart.x).unwrap_or_else(|| {
            axes.push(&chart.x);
            axes.len() - 1
        });
        let series = chart.series.iter().map(|series| {
            let values: Vec<_> = series.values.iter().map(|value| value.map(number)).collect();
            json!({ "label": series.label, "values": values, "shape": series.shape })
        });
        of_charts.push(json!({
            "id": chart.frame.id,
            "axis": axis,
            "x_label": chart.frame.x_label,
            "x_kind": chart.frame.x_kind,
            "y_kind": chart.frame.y_kind,
            "series": series.collect::<Vec<_>>(),
        }));
    }
    let axes: Vec<Vec<_>> =
        axes.iter().map(|axis| axis.iter().copied().map(number).collect()).collect();
    json!({ "axes": axes, "charts": of_charts })
}

/// Whole numbers without a decimal point, which are shorter.
fn number(value: f64) -> Option<Number> {
    /// From here on a float has no ones.
    const WHOLE_MAX: f64 = (1u64 << 53) as f64;
    match value.fract() == 0.0 && value.abs() < WHOLE_MAX {
        true => Some((value as i64).into()),
        false => Number::from_f64(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_have_no_decimal_point_as_long_as_they_are_exact() {
        let whole_max = (1u64 << 53) as f64;
        let shown = [0.0, 3.0, -3.0, 2.5, whole_max - 1.0, whole_max]
            .map(|value| number(value).expect("finite").to_string());
        let expected = ["0", "3", "-3", "2.5", "9007199254740991", "9007199254740992.0"];
        assert_eq!(shown, expected);
        assert_eq!(number(f64::NAN), None);
    }
}
