#!/usr/bin/env bash
# Renews what is made from something else: crds/ and the definition in the chart, from the types of the API; deploy/base and
# deploy/install.yaml, from the chart; the reference and the tables of metrics and of values; the schema for editors. Read the difference.
# The tests that fail when one of these is not what would be made write it here.
set -euo pipefail
cd "$(dirname "$0")/.."
export UPDATE_GOLDEN=1

hack/step.sh "crds/, from the types of the API" \
    cargo test --locked --quiet --lib -- the_checked_in_definition_is_the_one_made_here
hack/step.sh "docs/reference.md, from the definition" \
    cargo test --locked --quiet --test reference -- the_reference_says_what_the_definition_says
hack/step.sh "The table of docs/metrics.md" \
    cargo test --locked --quiet --test metrics -- every_metric_stands_on_the_page_as_it_is
hack/step.sh "The chart's definition and schema, deploy/, docs/values.md, docs/schema/" \
    cargo test --locked --quiet --test chart -- everything_that_is_generated_is_what_is_made_now
