#!/usr/bin/env bash
# Renews the generated files: crds/ and the CRDs in the chart, from the API types; deploy/base and deploy/install.yaml, from the
# chart; the references, the tables of metrics and values, and the schema for editors. Read the difference afterwards.
# With UPDATE_GOLDEN, the tests that check these files write them.
set -euo pipefail
cd "$(dirname "$0")/.."
export UPDATE_GOLDEN=1

hack/step.sh "Write crds/ from the API types" \
    cargo test --locked --quiet --lib -- the_checked_in_crds_are_up_to_date
hack/step.sh "Write docs/reference.md and docs/reference-grants.md from the CRDs" \
    cargo test --locked --quiet --test reference -- the_reference_says_what_the_definition_says
hack/step.sh "Write the table of docs/metrics.md" \
    cargo test --locked --quiet --test metrics -- every_metric_stands_on_the_page_as_it_is
hack/step.sh "Write the CRD and the schema of the chart, deploy/, docs/values.md and docs/schema/" \
    cargo test --locked --quiet --test chart -- everything_that_is_generated_is_what_is_made_now
