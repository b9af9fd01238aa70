//! Whether something grows: medians of each hour, and the line through them.

/// How much more something may be at the end than at the beginning.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Of its usual value.
    pub part: f64,
    /// However small that is.
    pub least: f64,
}

/// Hours that count: in the first ones caches and pools fill.
pub const WARM_UP: usize = 3;
/// With fewer hours a line says nothing.
pub const HOURS_MIN: usize = WARM_UP + 5;

/// The middle one of these numbers; 0 without any.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    match numbers.len() {
        0 => 0.0,
        count if count % 2 == 1 => numbers[count / 2],
        count => f64::midpoint(numbers[count / 2 - 1], numbers[count / 2]),
    }
}

/// The median of the hours that count.
pub fn usual(hours: &[f64]) -> f64 {
    median(hours.iter().skip(WARM_UP).copied().collect())
}

/// By how much the median of an hour has grown from the first hour that counts to the last one. The slope is the median
/// of those between all pairs of hours (Theil and Sen), so that single hours that differ do not matter.
pub fn growth(hours: &[f64]) -> f64 {
    let counted = &hours[WARM_UP.min(hours.len())..];
    let slopes = counted.iter().enumerate().flat_map(|(at, before)| {
        let later = counted.iter().enumerate().skip(at + 1);
        later.map(move |(then, after)| (after - before) / (then - at) as f64)
    });
    median(slopes.collect()) * counted.len().saturating_sub(1) as f64
}

/// A sentence if something has grown by more than it may.
pub fn judge(name: &str, hours: &[f64], tolerance: Tolerance) -> Option<String> {
    if hours.len() < HOURS_MIN {
        return None;
    }
    let (usual, growth) = (usual(hours), growth(hours));
    let most = (usual * tolerance.part).max(tolerance.least);
    (growth > most)
        .then(|| format!("{name} has grown by {growth:.3} over {} hours, from about {usual:.3}", hours.len() - WARM_UP))
}

#[cfg(test)]
mod tests {
    use rand::RngExt;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const TOLERANCE: Tolerance = Tolerance { part: 0.05, least: 3.0 };

    /// Hours of a level that varies by so much at random, with so much more in each hour.
    fn hours(level: f64, varies: f64, grows: f64) -> Vec<f64> {
        let mut random = StdRng::seed_from_u64(7);
        (0..20).map(|hour| level + random.random_range(-varies..=varies) + grows * f64::from(hour)).collect()
    }

    #[test]
    fn what_varies_does_not_grow() {
        for (level, varies) in [(1000.0, 20.0), (60.0, 1.0), (0.0, 0.0)] {
            assert_eq!(judge("it", &hours(level, varies, 0.0), TOLERANCE), None);
        }
    }

    #[test]
    fn a_slow_leak_is_found_among_what_varies() {
        // Five per cent within 16 hours are 3.1 in an hour.
        assert!(judge("it", &hours(1000.0, 20.0, 5.0), TOLERANCE).is_some());
        assert!(judge("it", &hours(60.0, 1.0, 0.4), TOLERANCE).is_some());
    }

    #[test]
    fn single_hours_and_those_of_the_beginning_do_not_matter() {
        let mut odd = hours(1000.0, 5.0, 0.0);
        odd[..3].copy_from_slice(&[100.0, 300.0, 600.0]);
        odd[18] = 5000.0;
        assert_eq!(judge("it", &odd, TOLERANCE), None);
        assert_eq!(judge("it", &[1.0, 100.0, 1000.0], TOLERANCE), None);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!([vec![], vec![3.0, 1.0, 2.0], vec![4.0, 1.0, 2.0, 3.0]].map(median), [0.0, 2.0, 2.5]);
    }
}
