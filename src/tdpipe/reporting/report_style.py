"""How report.html looks: dark on light, phases in colours that any colour vision tells apart."""

STYLE = """
:root { --prefill: #e69f00; --decode: #56b4e9; --mixed: #9c9c9c; --ink: #1c2733; --dim: #566270; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 28px 30px 60px; background: #fff;
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 25px; margin: 0; }
h2 { font-size: 18px; margin: 38px 0 6px; border-bottom: 1px solid #dfe4ea; padding-bottom: 4px; }
p { margin: 4px 0 10px; color: var(--dim); max-width: 95ch; }
.failure { background: #fdecea; border-left: 5px solid #b3261e; color: #7a1a14; padding: 10px 14px;
  margin: 16px 0; max-width: none; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 20px 0 4px; }
.tile { background: #f4f7fa; border-radius: 8px; padding: 12px 16px; }
.tile b { display: block; font-size: 24px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--dim); font-size: 13px; }
.key span { display: inline-block; margin-right: 22px; }
.key i { display: inline-block; width: 14px; height: 14px; border-radius: 3px; margin-right: 6px;
  vertical-align: -2px; border: 1px solid #8884; }
table { border-collapse: collapse; min-width: 50%; font-size: 14px; }
th, td { text-align: left; padding: 5px 12px 5px 0; vertical-align: top;
  border-bottom: 1px solid #e9edf1; overflow-wrap: anywhere; }
th { color: var(--dim); font-weight: 600; white-space: nowrap; }
td:first-child { white-space: nowrap; padding-right: 28px; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap;
  padding-right: 20px; }
.scroll { max-height: 430px; overflow-y: auto; }
@media print { .scroll { max-height: none; } }
.pair { display: grid; grid-template-columns: 560px 1fr; gap: 34px; align-items: start; }
svg { display: block; width: 100%; height: auto; margin: 2px 0; font-size: 13px; }
svg text { fill: var(--ink); }
svg .tick { fill: var(--dim); font-size: 12.5px; }
svg .title { font-weight: 600; }
svg .label { font-size: 12.5px; }
svg .grid { stroke: #1c273322; fill: none; }
svg .axis { stroke: #7a8794; fill: none; }
svg .line { fill: none; stroke: var(--ink); stroke-width: 1.6; stroke-linejoin: round; }
svg .line.second { stroke: #0072b2; stroke-dasharray: 5 3; }
svg .band { opacity: .36; }
.prefill { fill: var(--prefill); background: var(--prefill); }
.decode { fill: var(--decode); background: var(--decode); }
.mixed { fill: var(--mixed); background: var(--mixed); }
.waits { background: #fff; }
svg .idle { fill: #fff; stroke: #c9d1d9; }
svg .one { stroke: #fff; stroke-width: .6; }
svg .batch { font-size: 12px; pointer-events: none; }
svg .double { stroke: #7a8794; stroke-dasharray: 3 4; fill: none; }
svg .dots { stroke: #0072b2; stroke-opacity: .45; stroke-width: 5; stroke-linecap: round; }
svg .rest { fill: #e9edf1; } svg .share { fill: #00805e; }
svg .inside, svg .beside { font-weight: 600; font-size: 14px; }
svg .inside { fill: #fff; }
"""
