"""What people set, by name: value sets that the chart is linted, rendered and checked with."""

from __future__ import annotations

from typing import Any

ACCOUNT = {"id": "a", "api_key": "${file:/run/secrets/gateway/a}"}

SETS: dict[str, dict[str, Any]] = {
    "default": {},
    "one-replica-embedded-store": {"replicaCount": 1, "secretKeys": {"redisUrl": ""}},
    "deployment": {"kind": "Deployment", "replicaCount": 3},
    "deployment-autoscaled": {"kind": "Deployment", "autoscaling": {"enabled": True, "maxReplicas": 20}},
    "autoscaled": {"autoscaling": {"enabled": True, "minReplicas": 3, "targetCPUUtilizationPercentage": 70}},
    "own-configmap": {"existingConfigMap": "my-gateway", "config": {"accounts": []}},
    "own-secret-and-keys": {
        "existingSecret": "vault-gateway",
        "secretKeys": {"secret": "HMAC", "adminToken": "ADMIN", "metricsToken": "SCRAPE", "redisUrl": "REDIS"},
    },
    "secrets-from-the-environment": {
        "extraEnvFrom": [{"secretRef": {"name": "gateway-env"}}],
        "config": {
            "accounts": [{"id": "a", "api_key": "${ANTHROPIC_API_KEY_A}"}],
            "secret": ["${NEW_SECRET}", "${OLD_SECRET}"],
            "redis": "${REDIS_URL}",
        },
    },
    "two-secrets-while-one-is-rotated": {
        "config": {"secret": ["${file:/run/secrets/gateway/secret}", "${file:/run/secrets/gateway/secret-old}"]}
    },
    "many-accounts-keys-teams-models": {
        "config": {
            "workers": 4,
            "accounts": [
                {**ACCOUNT, "organization": "acme", "workspace": "w1", "weight": 2, "models": ["claude-*"]},
                {"id": "b", "api_key": "${file:/run/secrets/gateway/b}", "max_concurrency": 100, "http2": True},
            ],
            "keys": [{"id": "alice", "key_sha256": "0" * 64, "team": "research", "models": ["claude-haiku-4-5"]}],
            "teams": [{"id": "research", "limits": {"budget_usd": {"month": 1_000_000}}}],
            "models": {"aliases": {"fast": "claude-haiku-4-5"}},
            "limits": {"max_held_mb": 256},
            "expose_account": False,
        },
        "resources": {"requests": {"cpu": "4", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
    },
    "a-short-drain": {"drain": {"delay": 2, "limit": 90.5}},
    "ingress-with-tls": {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "annotations": {"nginx.ingress.kubernetes.io/proxy-buffering": "off"},
            "hosts": [{"host": "claude.example.com", "paths": [{"path": "/"}]}],
            "tls": [{"hosts": ["claude.example.com"], "secretName": "claude-tls"}],
        },
        "config": {"trusted_proxies": ["10.20.30.40/32"]},
    },
    "gateway-api-route": {
        "httpRoute": {
            "enabled": True,
            "parentRefs": [{"name": "shared", "namespace": "gateway-system"}],
            "hostnames": ["claude.example.com"],
        }
    },
    "load-balancer": {
        "service": {"type": "LoadBalancer", "port": 443, "annotations": {"cloud.example/internal": "true"}},
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/gateway"}},
    },
    "monitoring": {
        "metrics": {
            "serviceMonitor": {"enabled": True, "job": "gateway-eu", "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
            "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Claude"}},
        }
    },
    "no-network-policy-no-budget-no-account": {
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "serviceAccount": {"create": False, "name": "shared"},
    },
    "a-closed-network": {
        "networkPolicy": {
            "clients": [{"namespaceSelector": {"matchLabels": {"claude": "true"}}}],
            "monitoringNamespace": "observability",
            "redisPorts": [6379, 6380],
            "extraIngress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/24"}}]}],
            "extraEgress": [{"ports": [{"protocol": "TCP", "port": 4318}]}],
        },
        "config": {"tracing": {"sample": 0.1}},
    },
    "scheduling": {
        "nodeSelector": {"pool": "network"},
        "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "gateway", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "arch", "operator": "In", "values": ["arm64"]}]}]}}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
            {"maxSkew": 2, "topologyKey": "host", "whenUnsatisfiable": "ScheduleAnyway",
             "labelSelector": {"matchLabels": {"tier": "edge"}}},
        ],
        "priorityClassName": "high",
        "podAnnotations": {"linkerd.io/inject": "enabled"},
        "podLabels": {"team": "platform"},
    },
    "a-mirror-by-digest": {
        "image": {
            "repository": "mirror.internal:5000/gateway", "digest": f"sha256:{'ab' * 32}", "pullPolicy": "Always",
        },
        "imagePullSecrets": [{"name": "mirror"}],
        "fullnameOverride": "claude",
        "persistence": {"size": "20Gi", "storageClass": "fast", "annotations": {"backup": "true"}},
    },
    "more-of-everything": {
        "nameOverride": "edge",
        "extraEnv": [
            {"name": "NO_COLOR", "value": "1"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "more", "key": "token"}}},
        ],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "company-ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/company", "readOnly": True}],
        "extraContainers": [{"name": "tail", "image": "busybox:1.37", "command": ["sleep", "infinity"]}],
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}},
            'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ include "gateway.fullname" . }}-text}\n',
        ],
        "config": {"accounts": [{**ACCOUNT, "ca_file": None}]},
    },
    "urls-with-expressions": {
        "config": {
            "accounts": [
                {**ACCOUNT, "proxy": "socks5://${file:/run/secrets/gateway/user}:${file:/run/secrets/gateway/p}@proxy:1080"},
                {**ACCOUNT, "id": "b", "proxy": "http://proxy:3128", "base_url": "https://host.example/path@v1:2"},
            ],
            "redis": "rediss://gateway:${STORE_PASSWORD}@redis:6379/1",
        },
        "extraEnvFrom": [{"secretRef": {"name": "gateway-env"}}],
    },
}  # fmt: skip

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an-api-key": ({"config": {"accounts": [{"id": "a", "api_key": "sk-ant-api03-x"}]}}, "/config/accounts/0/api_key"),
    "a-secret": ({"config": {"secret": "x" * 32}}, "/config/secret"),
    "a-secret-as-a-default": ({"config": {"secret": "${SECRET:-xxxx}"}}, "/config/secret"),
    "an-admin-token": ({"config": {"admin": {"token": "x" * 20}}}, "/config/admin/token"),
    "a-further-token": ({"config": {"admin": {"tokens": [{"id": "p", "token": "x"}]}}}, "/config/admin/tokens/0/token"),
    "a-callers-key": ({"config": {"keys": [{"id": "a", "key": ["sk-x"]}]}}, "/config/keys/0/key"),
    "a-password-of-redis": ({"config": {"redis": "redis://:hunter2@redis:6379"}}, "/config/redis"),
    "a-password-of-redis-with-a-sign": ({"config": {"redis": "redis://:hunt$er2@redis:6379"}}, "/config/redis"),
    "a-password-of-redis-with-a-slash": ({"config": {"redis": "redis://u:hunt/er2@redis:6379"}}, "/config/redis"),
    "half-a-password-of-redis": ({"config": {"redis": "redis://:${HALF}er2@redis:6379"}}, "/config/redis"),
    "a-password-of-redis-as-a-default": ({"config": {"redis": "${REDIS:-redis://:hunter2@redis}"}}, "/config/redis"),
    "a-password-of-sentinels": (
        {"config": {"redis": "redis+sentinel://:${P}@a:1,b:2/m?sentinel_password=hunter2"}}, "/config/redis",
    ),
    "a-password-of-a-proxy": (
        {"config": {"accounts": [{**ACCOUNT, "proxy": "http://u:pa$$word@proxy:3128"}]}}, "/config/accounts/0/proxy",
    ),
    "a-password-of-a-collector": ({"config": {"tracing": {"endpoint": "http://u:p@otel:4318"}}}, "/config/tracing"),
    "a-secret-anywhere": ({"config": {"tomorrow": [[{"client_secret": "x"}]]}}, "/config/tomorrow/0/0/client_secret"),
    "a-header-of-a-collector": ({"config": {"tracing": {"headers": {"x-api-key": "x"}}}}, "/config/tracing/headers"),
    "a-secret-of-the-environment": ({"extraEnv": [{"name": "ANTHROPIC_API_KEY", "value": "sk-ant-x"}]}, "/extraEnv/0"),
    "a-url-of-the-environment": ({"extraEnv": [{"name": "REDIS", "value": "redis://:x@redis"}]}, "/extraEnv/0"),
    "an-unknown-value": ({"replicas": 3}, "'replicas' not allowed"),
    "an-ingress-without-hosts": ({"ingress": {"enabled": True}}, "/ingress/hosts"),
    "a-job-that-no-rule-knows": ({"metrics": {"serviceMonitor": {"job": "claude"}}}, "/metrics/serviceMonitor/job"),
    "no-account": ({"config": {"accounts": []}}, "config.accounts is empty"),
    "replicas-without-redis": ({"secretKeys": {"redisUrl": ""}}, "several replicas need one Redis"),
    "a-drain-of-its-own": ({"config": {"timeouts": {"drain": 60}}}, "written from drain.limit"),
    "a-monitor-without-token": (
        {"metrics": {"serviceMonitor": {"enabled": True}}, "secretKeys": {"metricsToken": ""}},
        "needs secretKeys.metricsToken",
    ),
}  # fmt: skip
