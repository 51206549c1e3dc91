# gnuplot -e "data='DIR'; machine='WORDS'" bench/plots.gp : the report's pictures, from the CSV files that faultline-bench
# wrote to DIR. `machine`: where it was measured, to be named in each picture.
set datafile separator ','
small = 'sans,11'
named(title) = title."\n{/*0.75 ".machine."}"
# A CSV file's rows for which awk's `condition` holds, as awk's `columns` say; c["NAME"] is the number of a column.
rows(file, condition, columns) = sprintf("< awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; next } %s { print %s }' '%s/%s'", condition, columns, data, file)

# --- rivals.svg, at a glance, and rivals-all.svg: how long until it has been touched ---

stats rows('rivals.csv', '1', '$c["mib"]') using 1 name 'MIB' nooutput
array pattern[6] = ["random", "sequential", "5 % in runs of 8 to 64", "5 % one by one", "clusters of 64 KiB", "one page in 16"]
array heading[6] = ["every page, at random", "every page, in order", "5 % of it, in runs", "5 % of it, one by one", "every page, 64 KiB by 64 KiB", "one page in 16"]
# The rows of rivals.csv of one pattern and source: as they are named there, as they are named here, and their colour.
array rival[6] = ["mapped file (reads)", "mapped file (writes)", "faultline", "faultline (lazily)", "64 KiB around", "single pages"]
array called[6] = ["mapped file, read", "mapped file, written", "{/:Bold faultline}", "faultline, lazily", "handler, 64 KiB around", "handler, single pages"]
array colour[6] = ["#9a9a9a", "#c4c4c4", "#1f5fbf", "#7fb0ee", "#e08a2e", "#f2c48d"]
do for [picture in "rivals rivals-all"] {
  few = picture eq 'rivals'
  panels = few ? 4 : 6
  shown = few ? "1 2 3 5 6" : "1 2 3 4 5 6"
  bars = words(shown)
  set terminal svg size (few ? 900 : 1000),(few ? 700 : 1240) font small background 'white'
  set output data.'/'.picture.'.svg'
  set multiplot layout panels,2 title named(sprintf('Seconds until four threads have touched what they want of %d MiB (shorter is better)', MIB_max)) margins (few ? 0.215 : 0.195),0.985,0.02,(few ? 0.88 : 0.92) spacing 0.03,(few ? 0.07 : 0.045)
  unset key
  unset xtics
  set border 2
  set style fill solid 1.0 noborder
  do for [p=1:panels] {
    # One scale for both pictures of a line, so that the bars of warm and cold can be compared.
    of = sprintf('$c["pattern"] == "%s"', pattern[p])
    wanted = ''
    do for [r in shown] { wanted = wanted.(wanted eq '' ? '' : ' || ').sprintf('$c["rival"] == "%s"', rival[int(r)]) }
    of = of.' && ('.wanted.')'
    set xrange [*:*]
    set yrange [*:*]
    stats rows('rivals.csv', of, '$c["most_seconds"]') using 1 name 'ROW' nooutput
    do for [source in "warm cold"] {
      set title '{/:Bold '.heading[p].'}, '.(source eq 'warm' ? 'in the page cache' : 'from the disk') offset 0,-0.6
      if (source eq 'warm') {
        set ytics out nomirror
        set ytics ()
        do for [n=1:bars] { set ytics add (called[int(word(shown, n))] n) }
      } else { unset ytics }
      one = of.sprintf(' && $c["source"] == "%s"', source)
      set xrange [*:*]
      set yrange [*:*]
      stats rows('rivals.csv', one, '$c["seconds"]') using 1 name 'PANEL' nooutput
      set xrange [0:ROW_max * 1.42]
      set yrange [bars + 0.6:0.4]
      values = rows('rivals.csv', one, '$c["seconds"] "," $c["least_seconds"] "," $c["most_seconds"]')
      shade(n) = int('0x'.substr(colour[int(word(shown, n))], 2, 7))
      label(s) = (s < 0.0995 ? sprintf('%.0f ms', 1000 * s) : sprintf('%.2f s', s)).(s == PANEL_min ? '  {/:Bold fastest}' : '')
      plot values using (0):($0+1):(0):1:($0+0.6):($0+1.4):(shade(int($0)+1)) with boxxyerror linecolor rgb variable, \
           values using 1:($0+1):2:3 with xerrorbars pointtype 0 linecolor rgb '#404040', \
           values using 3:($0+1):(label($1)) with labels left offset 0.8,0
    }
  }
  unset multiplot
  reset
  set datafile separator ','
}

# --- By shards: throughput.svg, latency.svg ---

threads = "1 2 4 8 32"
usual(t) = sprintf('$c["mode"] == "faults" && $c["threads"] == %s && $c["targets"] == 1 && $c["page_size"] == 4096 && $c["touch"] == "read" && $c["source"] == "warm" && $c["removals"] == 0 && $c["remove_events"] == "true"', t)
# owners = CPUs is the default: of the cells of as many shards the one with the fewest owners; owners = shards is that with
# the most. Where both are the same there is one cell, and it is in both lines.
dealt(t, figure, than) = sprintf("< awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; next } $c[\"handler\"] == \"faultline\" && %s { s = $c[\"shards\"]; o = $c[\"owners\"] + 0; if (!(s in owners) || o %s owners[s]) { owners[s] = o; value[s] = $c[\"%s\"] \",\" $c[\"%s_least\"] \",\" $c[\"%s_most\"] } } END { for (s = 1; s <= 16; s *= 2) if (s in value) print s \",\" value[s] }' '%s/matrix.csv'", usual(t), than, figure, figure, figure, data)
# A rival has no shards: its least and most, from the left edge to the right.
band(t, handler, figure) = rows('matrix.csv', sprintf('$c["handler"] == "%s" && ', handler).usual(t), sprintf('$c["%s"] "," $c["%s_least"] "," $c["%s_most"]', figure, figure, figure))

array other[3] = ["around", "floor", "calls"]
array known[3] = ["64 KiB around, one process", "the floor: one process", "one call a fault, two processes"]
array dark[3] = ["#2f8f4e", "#e08a2e", "#707070"]
array pale[3] = ["#9ccfab", "#f2c48d", "#c0c0c0"]

set xlabel 'shards'
set logscale x 2
set xrange [0.85:19]
set xtics ("1" 1, "2" 2, "4" 4, "8" 8, "16" 16)
set grid ytics
set style fill transparent solid 0.18 noborder

set terminal svg size 1000,760 font small background 'white'
set output data.'/throughput.svg'
set multiplot layout 2,3 title named('4 KiB demand faults, warm source: pages a second by shards (medians, and the least and the most of five runs)') margins 0.07,0.985,0.08,0.86 spacing 0.06,0.13
set yrange [0:*]
set format y '%.0s%c'
do for [t in threads] {
  set title t.' thread'.(t eq '1' ? '' : 's')
  if (t ne '32') { unset key } else { set key at screen 0.985,0.36 right top spacing 1.4 }
  plot for [i=1:3] band(t, other[i], 'pages_per_second') using (0.85):1:(0.85):(19):2:3 with boxxyerror linecolor rgb dark[i] notitle, \
       for [i=1:3] band(t, other[i], 'pages_per_second') using (0.85):1:(18.15):(0) with vectors nohead linewidth 2 linecolor rgb dark[i] title known[i], \
       dealt(t, 'pages_per_second', '<') using 1:2:3:4 with yerrorlines linewidth 2 pointtype 7 pointsize 0.6 linecolor rgb '#1f5fbf' title 'faultline, owners = CPUs (default)', \
       dealt(t, 'pages_per_second', '>') using 1:2:3:4 with yerrorlines linewidth 1 dashtype 2 pointtype 6 pointsize 0.6 linecolor rgb '#1f5fbf' title 'faultline, owners = shards'
}
unset multiplot

set output data.'/latency.svg'
set multiplot layout 2,3 title named('4 KiB demand faults, warm source: latency by shards (medians, and the least and the most of five runs)') margins 0.07,0.985,0.08,0.86 spacing 0.06,0.13
set logscale y
set yrange [5:10000]
set ytics ("10 us" 10, "100 us" 100, "1 ms" 1000, "10 ms" 10000)
do for [t in threads] {
  set title t.' thread'.(t eq '1' ? '' : 's')
  if (t ne '32') { unset key } else { set key at screen 0.985,0.38 right top spacing 1.3 }
  plot for [i=1:2] for [q in "p50 p99"] band(t, other[i], q.'_us') using (0.85):1:(0.85):(19):2:3 with boxxyerror linecolor rgb (q eq 'p50' ? dark[i] : pale[i]) notitle, \
       for [i=1:2] for [q in "p50 p99"] band(t, other[i], q.'_us') using (0.85):1:(18.15):(0) with vectors nohead linewidth 2 linecolor rgb (q eq 'p50' ? dark[i] : pale[i]) title (i == 1 ? '64 KiB around, ' : 'the floor, ').q, \
       for [q in "p50 p99"] dealt(t, q.'_us', '<') using 1:2:3:4 with yerrorlines linewidth 2 pointtype 7 pointsize 0.6 linecolor rgb (q eq 'p50' ? '#1f5fbf' : '#7fb0ee') title 'faultline, owners = CPUs, '.q, \
       for [q in "p50 p99"] dealt(t, q.'_us', '>') using 1:2:3:4 with yerrorlines linewidth 1 dashtype 2 pointtype 6 pointsize 0.6 linecolor rgb (q eq 'p50' ? '#1f5fbf' : '#7fb0ee') title 'faultline, owners = shards, '.q
}
unset multiplot
reset
set datafile separator ','

# --- histogram.svg: the tail ---

set terminal svg size 1000,620 font small background 'white'
set output data.'/histogram.svg'
set title named("Latency of a 4 KiB fault as the target saw it, 2 shards: how many take longer (three runs each)")
set xlabel 'microseconds'
set ylabel 'share of the faults that take longer'
set logscale xy
set xrange [2:*]
set yrange [3e-5:1]
set ytics ("all" 1, "1 in 2" 0.5, "1 in 10" 0.1, "1 in 100 (p99)" 0.01, "1 in 1000" 0.001, "1 in 10,000" 0.0001)
set mxtics 10
set grid xtics ytics
set key inside right top
tail(handler, t, run) = rows('histogram.csv', sprintf('$c["handler"] == "%s" && $c["threads"] == %s && $c["run"] == %d', handler, t, run), '$c["us"] "," $c["slower"]')
array hue[3] = ["#1f5fbf", "#2f8f4e", "#b03a5b"]
plot for [i=1:3] for [run=0:2] tail('faultline', word("1 8 32", i), run) using 1:2 with lines linewidth (run == 0 ? 2 : 1) linecolor rgb hue[i] title (run == 0 ? 'faultline, '.word("1 8 32", i).' thread'.(i == 1 ? '' : 's') : ''), \
     for [i=1:3] for [run=0:2] tail('floor', word("1 8 32", i), run) using 1:2 with lines linewidth 1 dashtype 2 linecolor rgb hue[i] title (run == 0 ? 'the floor, '.word("1 8 32", i).' thread'.(i == 1 ? '' : 's') : '')
reset
set datafile separator ','

# --- breakdown.svg: a panel for each placement, on a scale of its own ---

set terminal svg size 1000,380 font small background 'white'
set output data.'/breakdown.svg'
set multiplot layout 1,3 title named('Where the time of one 4 KiB fault goes: one thread, 2 shards, means in us (each panel has its own scale)') margins 0.15,0.985,0.03,0.75 spacing 0.025,0
array placement[3] = ["one CPU", "across CPUs", "free"]
array where[3] = ["all on one CPU", "target and server on two CPUs", "where the scheduler puts them"]
array part[7] = ["kernel queue", "coordinator", "hand-over", "wait for the gate", "source", "copy", "wake"]
array shade[9] = ["#7fb0ee", "#7fb0ee", "#7fb0ee", "#7fb0ee", "#7fb0ee", "#7fb0ee", "#7fb0ee", "#1f5fbf", "#e08a2e"]
# One placement's parts, then what they are together, then the floor.
parts(p) = sprintf("< awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; next } $c[\"placement\"] == \"%s\" { if ($c[\"part\"] ~ /^floor/) floor = $c[\"us\"]; else { print $c[\"us\"]; sum += $c[\"us\"] } } END { print sum; print floor }' '%s/breakdown.csv'", p, data)
hue(n) = int('0x'.substr(shade[n], 2, 7))
row(n) = n + (n > 7 ? 0.5 : 0)
unset key
unset xtics
set border 2
set style fill solid 1.0 noborder
set yrange [10.1:0.4]
do for [p=1:3] {
  set title '{/:Bold '.where[p].'}' offset 0,-0.6
  if (p == 1) {
    set ytics out nomirror
    set ytics ()
    do for [n=1:7] { set ytics add (part[n] n) }
    set ytics add ('{/:Bold together}' row(8), 'the floor' row(9))
  } else { unset ytics }
  set xrange [*:*]
  set yrange [*:*]
  stats parts(placement[p]) using 1 name 'PART' nooutput
  set xrange [0:PART_max * 1.22]
  set yrange [10.1:0.4]
  plot parts(placement[p]) using (0):(row($0+1)):(0):1:(row($0+1)-0.4):(row($0+1)+0.4):(hue(int($0)+1)) with boxxyerror linecolor rgb variable, \
       parts(placement[p]) using 1:(row($0+1)):(sprintf($1 < 0.995 ? '%.2f' : '%.1f', $1)) with labels left offset 0.8,0
}
unset multiplot
