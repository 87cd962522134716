# `make` and `make help-all`: the Makefile's targets, and its variables with their values, which V_NAME in the environment has.
/^[a-z-]+:.* ## / { name = $0; sub(/:.*/, "", name); sub(/^.* ## /, ""); text[name] = $0; order[++count] = name }
/^[A-Z_]+ \?= .*#: / { name = $1; sub(/^.*#: /, ""); said[name] = $0; variables[++known] = name }
function target(name) { printf "  make %-15s %s\n", name, text[name] }
function variable(name) { printf "  %-10s = %s  (%s)\n", name, ENVIRON["V_" name], said[name] }
END {
  print "engram: teach a small model facts and rules, and see what it learned. Start with: make demo"
  if (all) { print ""; for (i = 1; i <= count; i++) target(order[i]) }
  else {
    n = split(shown, groups, "|")
    for (i = 1; i <= n; i++) {
      split(groups[i], group, ":"); print "\n" group[1] ":"
      m = split(group[2], names, " "); for (j = 1; j <= m; j++) target(names[j])
    }
  }
  print "\nvariables (make demo MODEL=smollm2-135m):"
  if (all) for (i = 1; i <= known; i++) variable(variables[i])
  else { m = split("MODEL BACKEND PATTERNS SEED ARGS", names, " "); for (j = 1; j <= m; j++) variable(names[j]) }
  if (!all) print "\nmake help-all lists every target and variable."
}
