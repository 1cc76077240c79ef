# Work for jq: groups, sums, rewrites and formats what it is given.
[.[] | select(.n % 3 != 0)] as $kept
| ($kept | group_by(.town) | map({town: .[0].town, count: length, sum: (map(.n) | add)})),
  ($kept | map(.tags | join("-")) | unique | length),
  (reduce $kept[] as $row ({}; .[$row.town] += $row.n)),
  ([$kept[] | .name | ascii_upcase | gsub("(?<d>[0-9])"; "<\(.d)>")] | .[0:3]),
  ($kept | map(.n) | [min, max, add / length]),
  ([limit(4; $kept[] | tojson)] | map(fromjson | .deep.er[1]))
