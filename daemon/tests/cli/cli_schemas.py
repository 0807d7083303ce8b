"""What scripts may rely on in ``-o json``: every field, its type, and nothing beside. Written by hand on purpose."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
WORD: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
YES_NO: Schema = {"type": "boolean"}
TIME: Schema = {"type": ["string", "null"], "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}
TRUTH: Schema = {"enum": ["True", "False", "Unknown"]}


def record(**fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def many(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def table_of(value: Schema) -> Schema:
    return {"type": "object", "additionalProperties": value}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


PROBLEM = record(severity={"enum": ["error", "warning"]}, object=WORD, reason=WORD, message=WORD, fix=TEXT)
STATUS = record(
    well=YES_NO,
    server=WORD,
    peers=many(
        record(
            name=WORD,
            connected=TRUTH,
            synced=TRUTH,
            overlay={"enum": ["Enabled", "Disabled"]},
            nodes=COUNT,
            services=COUNT,
            refused=COUNT,
            serverVersion=TEXT,
            clusterID=TEXT,
            lastSyncTime=TIME,
            credentialExpiryTime=TIME,
        )
    ),
    nodes=many(
        record(
            name=WORD,
            ready=TRUTH,
            devices=table_of(COUNT),
            wantedRoutes=table_of(COUNT),
            programmedRoutes=table_of(COUNT),
            paths=or_null(record(reachable=COUNT, degraded=COUNT, blackHoled=COUNT, unreachable=COUNT, unknown=COUNT)),
            problems=COUNT,
            agentVersion=TEXT,
        )
    ),
    services=record(federated=COUNT, withProblems=COUNT),
    problems=many(PROBLEM),
)
SERVICES = record(
    well=YES_NO,
    namespace=or_null(WORD),
    services=many(
        record(
            namespace=WORD,
            name=WORD,
            selector=TEXT,
            type={"enum": ["ClusterIP", "Headless", "NodePort", "LoadBalancer", "ExternalName"]},
            ports=many(WORD),
            affinity=WORD,
            staleness=or_null(WORD),
            slices=COUNT,
            clusters=many(
                record(
                    cluster=WORD,
                    backing=or_null(many(record(name=WORD, ports=many(WORD), ready=COUNT, notReady=COUNT))),
                    ready=COUNT,
                    notReady=COUNT,
                )
            ),
            endpoints=or_null(
                many(
                    record(
                        cluster=WORD,
                        addresses=many(WORD),
                        ports=many(WORD),
                        ready=YES_NO,
                        nodeName=or_null(WORD),
                        target=or_null(WORD),
                    )
                )
            ),
            events=many(WORD),
            problems=many(PROBLEM),
        )
    ),
    notAsked=many(record(cluster=WORD, reason=WORD)),
)
EVALUATION = record(
    selector=WORD,
    found=many(
        record(
            kind={"enum": ["Workload endpoint", "Service"]},
            name=WORD,
            cluster=or_null(WORD),
            addresses=many(WORD),
            labels=table_of(TEXT),
        )
    ),
    clusters=many(record(cluster=or_null(WORD), matches=COUNT, error=or_null(WORD))),
)
REPORT = record(
    well=YES_NO,
    checks=many(record(scope=WORD, check=WORD, result={"enum": ["ok", "warn", "FAIL"]}, message=WORD, fix=TEXT)),
    summary=record(ok=COUNT, warn=COUNT, fail=COUNT),
)
