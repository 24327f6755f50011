#!/usr/bin/env bash
# Make plotly-small.min.js: the part of plotly.js that the book's figures are drawn with, a quarter of the whole, from npm.
# The version is that of the pinned Python package; a figure with a trace that is not in here loads the whole instead.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$("$here/../../.venv/bin/python" -c "import plotly.offline; print(plotly.offline.get_plotlyjs_version())")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts "plotly.js@$version" esbuild@0.28.2
cat >entry.js <<'JS'
const Plotly = require("plotly.js/lib/core"); // scatter is always in it
Plotly.register([require("plotly.js/lib/bar"), require("plotly.js/lib/heatmap"), require("plotly.js/lib/scatterpolar")]);
module.exports = Plotly;
JS
npx esbuild entry.js --bundle --minify --format=iife --global-name=Plotly --target=es2020 --define:global=window \
    --legal-comments=eof --banner:js="/* plotly.js v$version (scatter, bar, heatmap, scatterpolar), Copyright Plotly, Inc., MIT license */" \
    --outfile=small.js --log-level=warning
mv small.js "$here/plotly-small.min.js"
