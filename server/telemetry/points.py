"""The Prometheus metrics as OTLP metrics, with the same names, values, and labels."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry
from prometheus_client import Metric as Family
from prometheus_client.samples import Sample

from server.telemetry.spans import NS, SCOPE

TOTAL = AggregationTemporality.CUMULATIVE


def metrics_data(registry: CollectorRegistry, resource: Resource, began_at: float) -> MetricsData:
    """Return all metrics of a registry.

    Args:
        registry: the metrics.
        resource: the service.
        began_at: when the counters were 0, in Unix seconds.
    """
    times = int(began_at * NS), time.time_ns()
    metrics = [
        Metric(name, family.documentation, "", data)
        for family in registry.collect()
        for name, data in _of(family, times)
    ]
    scope = ScopeMetrics(SCOPE, metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _of(family: Family, times: tuple[int, int]) -> Iterable[tuple[str, Any]]:
    if family.type == "counter":
        samples = [sample for sample in family.samples if sample.name.endswith("_total")]
        if samples:
            yield f"{family.name}_total", Sum(_numbers(samples, times), TOTAL, is_monotonic=True)
    elif family.type == "histogram":
        if points := _histograms(family, times):
            yield family.name, Histogram(points, TOTAL)
    elif family.samples:
        yield family.name, Gauge(_numbers(family.samples, times))


def _numbers(samples: Iterable[Sample], times: tuple[int, int]) -> list[NumberDataPoint]:
    return [NumberDataPoint(dict(sample.labels), *times, sample.value) for sample in samples]


def _histograms(family: Family, times: tuple[int, int]) -> list[HistogramDataPoint]:
    """Return a point for each combination of labels. Prometheus' buckets add up, and OTLP's do not."""
    buckets: dict[tuple[tuple[str, str], ...], dict[float, float]] = {}
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in family.samples:
        labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        if sample.name.endswith("_bucket"):
            buckets.setdefault(labels, {})[float(sample.labels["le"])] = sample.value
        elif sample.name.endswith("_sum"):
            sums[labels] = sample.value
    points = []
    for labels, cumulative in buckets.items():
        bounds = sorted(cumulative)
        below = [0.0, *(cumulative[bound] for bound in bounds)]
        counts = [int(upper - lower) for lower, upper in pairwise(below)]
        points.append(
            HistogramDataPoint(
                dict(labels),
                *times,
                count=sum(counts),
                sum=sums.get(labels, 0.0),
                bucket_counts=counts,
                explicit_bounds=[bound for bound in bounds if not math.isinf(bound)],
                min=None,  # type: ignore[arg-type]  # Not known; the encoder leaves it out.
                max=None,  # type: ignore[arg-type]
            )
        )
    return points
