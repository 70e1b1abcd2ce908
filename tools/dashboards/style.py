"""What all dashboards have in common: variables, panels of one style, and their places in a grid of 24 columns."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION = 41  # Grafana 12
PANEL_HEIGHT = 8
COLUMNS = 24


def datasource_variable():
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "regex": "",
            "current": {}, "hide": 0, "includeAll": False, "multi": False, "options": [], "refresh": 1}


def query_variable(name, label, query, several=False):
    variable = {"name": name, "label": label, "type": "query", "datasource": DATASOURCE, "definition": query,
                "query": {"query": query, "refId": name}, "regex": "", "refresh": 2, "sort": 1, "hide": 0,
                "includeAll": several, "multi": several, "current": {}, "options": []}
    if several:
        variable["allValue"] = ".*"
    return variable


def variables(component=None):
    """Data source and namespace; with a component, its pools and pods too."""
    found = [datasource_variable(), query_variable("namespace", "Namespace", "label_values(conclave_build_info, namespace)")]
    if component is None:
        return found
    of = f'conclave_build_info{{namespace="$namespace",component="{component}"}}'
    if component in ("engine", "expert"):
        found.append(query_variable("pool", "Pool", f"label_values({of}, pool)", several=True))
        of = of.replace("}", ',pool=~"$pool"}')
    found.append(query_variable("pod", "Pod", f"label_values({of}, pod)", several=True))
    return found


def targets(queries, instant=False, table=False):
    """`queries`: expression -> legend."""
    return [{"refId": chr(ord("A") + i), "datasource": DATASOURCE, "editorMode": "code", "expr": expression,
             "legendFormat": legend, "instant": instant, "range": not instant, "format": "table" if table else "time_series"}
            for i, (expression, legend) in enumerate(queries.items())]


def panel(kind, title, description, queries, unit, width, options, custom=None, **rest):
    defaults = {"unit": unit, "custom": custom or {}, "mappings": [], "color": {"mode": "palette-classic"},
                "thresholds": {"mode": "absolute", "steps": [{"color": "green", "value": None}]}}
    defaults.update(rest.pop("defaults", {}))
    return {"type": kind, "title": title, "description": description, "datasource": DATASOURCE,
            "gridPos": {"w": width, "h": rest.pop("height", PANEL_HEIGHT)},
            "fieldConfig": {"defaults": defaults, "overrides": []}, "options": options,
            "targets": targets(queries, rest.pop("instant", False), rest.pop("table", False)), **rest}


def graph(title, description, unit, queries, width=8, stacked=False, **defaults):
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 20 if stacked else 8, "showPoints": "never",
              "spanNulls": False, "stacking": {"group": "A", "mode": "normal" if stacked else "none"}}
    options = {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
               "tooltip": {"mode": "multi", "sort": "desc"}}
    return panel("timeseries", title, description, queries, unit, width, options, custom, defaults={"min": 0, **defaults})


def number(title, description, unit, query, steps=(), width=4, **defaults):
    """One value; `steps`: (colour, from which value on), the first without a value."""
    options = {"colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto", "textMode": "auto",
               "wideLayout": True, "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    colours = {"color": {"mode": "thresholds"}} if steps else {}
    if steps:
        colours["thresholds"] = {"mode": "absolute", "steps": [{"color": colour, "value": value} for colour, value in steps]}
    return panel("stat", title, description, {query: ""}, unit, width, options, height=5, defaults={**colours, **defaults})


def heatmap(title, description, unit, query, legend, width=12):
    """Colour over time; each series is one cell high."""
    options = {"calculate": False, "cellGap": 1, "color": {"mode": "scheme", "scheme": "Oranges", "exponent": 0.5, "steps": 64,
                                                           "fill": "dark-orange", "reverse": False, "scale": "exponential"},
               "exemplars": {"color": "rgba(255,0,255,0.7)"}, "filterValues": {"le": 1e-9}, "legend": {"show": True},
               "rowsFrame": {"layout": "auto"}, "showValue": "never", "tooltip": {"mode": "single", "showColorScale": True},
               "yAxis": {"axisPlacement": "left", "reverse": True, "unit": "none"}, "cellValues": {"unit": unit}}
    return panel("heatmap", title, description, {query: legend}, unit, width, options, height=10)


def matrix(title, description, unit, query, row, column, width=24):
    """A table with one label's values down, another one's across, and cells coloured by value."""
    options = {"cellHeight": "sm", "showHeader": True, "footer": {"show": False, "reducer": ["sum"], "fields": ""}}
    custom = {"align": "center", "cellOptions": {"type": "color-background", "mode": "gradient"}, "minWidth": 40}
    colour = {"color": {"mode": "continuous-YlRd"}, "decimals": 0}
    transformation = {"id": "groupingToMatrix", "options": {"columnField": column, "rowField": row, "valueField": "Value",
                                                            "emptyValue": "zero"}}
    return panel("table", title, description, {query: ""}, unit, width, options, custom, height=12, instant=True, table=True,
                 transformations=[transformation], defaults=colour)


def table(title, description, unit, query, hidden=(), width=8):
    """Instant values with their labels, largest first."""
    options = {"cellHeight": "sm", "showHeader": True, "footer": {"show": False, "reducer": ["sum"], "fields": ""},
               "sortBy": [{"displayName": "Value", "desc": True}]}
    hide = {"id": "organize", "options": {"excludeByName": {name: True for name in ("Time", *hidden)}, "indexByName": {},
                                          "renameByName": {}}}
    return panel("table", title, description, {query: ""}, unit, width, options, {"align": "auto"}, instant=True, table=True,
                 transformations=[hide])


def dashboard(uid, title, description, rows, component=None):
    """`rows`: (title, panels); the panels of a row flow from left to right."""
    panels, y = [], 0
    for name, members in rows:
        panels.append({"type": "row", "title": name, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}})
        y += 1
        x, height = 0, 0
        for member in members:
            if x + member["gridPos"]["w"] > COLUMNS:
                y, x, height = y + height, 0, 0
            member["gridPos"].update(x=x, y=y)
            x += member["gridPos"]["w"]
            height = max(height, member["gridPos"]["h"])
            panels.append(member)
        y += height
    for i, member in enumerate(panels):
        member["id"] = i + 1
    links = [{"type": "dashboards", "tags": ["conclave"], "title": "Conclave", "asDropdown": True, "includeVars": True,
              "keepTime": True, "targetBlank": False, "icon": "external link", "tooltip": "", "url": ""}]
    return {"uid": uid, "title": title, "description": description, "tags": ["conclave"], "schemaVersion": SCHEMA_VERSION,
            "version": 1, "editable": True, "graphTooltip": 1, "refresh": "30s", "timezone": "browser",
            "time": {"from": "now-1h", "to": "now"}, "timepicker": {}, "fiscalYearStartMonth": 0, "weekStart": "",
            "annotations": {"list": []}, "links": links, "templating": {"list": variables(component)}, "panels": panels}


def quantiles(metric, selector, by="", of=(0.5, 0.95, 0.99)):
    """expression -> legend of a histogram's quantiles."""
    grouped = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return {f"histogram_quantile({q}, sum by ({grouped}) (rate({metric}_bucket{{{selector}}}[$__rate_interval])))":
            f"p{q * 100:g}{legend}" for q in of}


def mean(metric, selector, by):
    return (f"sum by ({by}) (rate({metric}_sum{{{selector}}}[$__rate_interval])) "
            f"/ sum by ({by}) (rate({metric}_count{{{selector}}}[$__rate_interval]))")
