//! The configuration of all property tests.

use proptest::prelude::ProptestConfig;
use proptest::test_runner::FileFailurePersistence;

/// Records a case that fails beside the source of its test: `tests.proptest-regressions` for
/// `tests.rs`. Without this, proptest would make a folder at the root of the repository.
pub fn config() -> ProptestConfig {
    let beside_source = FileFailurePersistence::WithSource("proptest-regressions");
    ProptestConfig {
        failure_persistence: Some(Box::new(beside_source)),
        ..ProptestConfig::default()
    }
}
