"""Pods that follow the load: HorizontalPodAutoscalers on the metrics of Prometheus, through prometheus-adapter."""


def check(report, kube, service):
    pass
