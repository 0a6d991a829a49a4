"""Requests to an OTLP receiver over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from prometheus_client import CollectorRegistry

from server.telemetry.points import metrics_data
from server.telemetry.settings import TelemetrySettings
from server.telemetry.spans import Traces

logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # `otlp.py` says once what fails.


class Sender:
    """The two exporters of one receiver."""

    def __init__(
        self, url: str, headers: Mapping[str, str], settings: TelemetrySettings, policy: str, timeout_s: float
    ) -> None:
        """Prepare the exporters; nothing connects yet.

        Args:
            url: base URL of the receiver.
            headers: of every request.
            settings: name of the service, and what spans contain.
            policy: name of the policy.
            timeout_s: longest time of one request with its repetitions.
        """
        base, sent = url.rstrip("/"), dict(headers)
        self._spans = OTLPSpanExporter(f"{base}/v1/traces", headers=sent, timeout=timeout_s)
        self._metrics = OTLPMetricExporter(f"{base}/v1/metrics", headers=sent, timeout=timeout_s)
        self.traces = Traces(settings.project, policy, content=settings.content)

    def send_spans(self, spans: Sequence[ReadableSpan]) -> bool:
        """Send spans; return whether the receiver has taken them."""
        return self._spans.export(spans) is SpanExportResult.SUCCESS

    def send_metrics(self, registry: CollectorRegistry, began_at: float) -> bool:
        """Send all metrics; return whether the receiver has taken them."""
        data = metrics_data(registry, self.traces.resource, began_at)
        return self._metrics.export(data) is MetricExportResult.SUCCESS
