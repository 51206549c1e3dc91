# gnuplot -e "data='DIR'" bench/plots.gp : the report's pictures, from the CSV files that faultline-bench wrote to DIR.
set datafile separator ','
set terminal svg size 900,560 font 'sans,13' background 'white'
set grid
set key outside right top
shards = "1 2 4 8 16"
threads = "1 2 4 8 32"

# Cells of the usual case, one line a thread count: 4 KiB, read, warm, no removals, one target. `than`: of the cells of as many
# shards '<' takes that with the fewest owners (as many as CPUs), '>' that with the most (as many as shards).
cell(t, column, than) = sprintf("< awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; next } $c[\"mode\"] == \"faults\" && $c[\"threads\"] == %s && $c[\"targets\"] == 1 && $c[\"page_size\"] == 4096 && $c[\"touch\"] == \"read\" && $c[\"source\"] == \"warm\" && $c[\"removals\"] == 0 { s = $c[\"shards\"]; o = $c[\"owners\"] + 0; if (!(s in owners) || o %s owners[s]) { owners[s] = o; value[s] = $c[\"%s\"] } } END { n = split(\"%s\", all, \" \"); for (i = 1; i <= n; i++) if (all[i] in value) print all[i] \",\" value[all[i]] }' %s/matrix.csv", t, than, column, shards, data)

set xlabel 'shards'
set logscale x 2
set xtics (1, 2, 4, 8, 16)
set output data.'/throughput.svg'
set title '4 KiB demand faults, warm source, by shards'
set ylabel 'faults a second'
set yrange [0:*]
plot for [i=1:words(threads)] cell(word(threads, i), 'pages_per_second', '<') using 1:2 with linespoints linewidth 2 linecolor i title word(threads, i).' threads, owners = CPUs', \
     for [i=1:words(threads)] cell(word(threads, i), 'pages_per_second', '>') using 1:2 with linespoints dashtype 2 linecolor i title word(threads, i).' threads, owners = shards'

set output data.'/latency.svg'
set terminal svg size 900,900 font 'sans,13' background 'white'
set multiplot layout 2,1 title '4 KiB demand faults, latency by shards (solid p50, dashed p99)'
set ylabel 'microseconds'
set yrange [10:10000]
set logscale y
do for [dealt in "CPUs shards"] {
  set title 'owners = '.dealt
  than = dealt eq 'CPUs' ? '<' : '>'
  plot for [i=1:words(threads)] cell(word(threads, i), 'p50_us', than) using 1:2 with linespoints linewidth 2 linecolor i title word(threads, i).' threads p50', \
       for [i=1:words(threads)] cell(word(threads, i), 'p99_us', than) using 1:2 with linespoints dashtype 2 linecolor i title word(threads, i).' threads p99'
}
unset multiplot
set terminal svg size 900,560 font 'sans,13' background 'white'

set output data.'/histogram.svg'
set title 'Latency of a 4 KiB fault as the target saw it, 2 shards'
set xlabel 'microseconds'
set logscale x 10
set xtics auto
unset logscale y
set ylabel 'share of faults at most this slow'
set yrange [0:1]
histogram(t) = sprintf("< awk -F, 'NR > 1 && $2 == %s { print $3 \",\" $1 }' %s/histogram.csv", t, data)
plot for [t in "1 8 32"] histogram(t) using 1:2 with lines linewidth 2 title t.' threads'

set output data.'/breakdown.svg'
set title 'Where the time of one 4 KiB fault goes, one thread, 2 shards (mean)'
unset logscale x
unset xlabel
set ylabel 'microseconds'
set yrange [0:*]
set style data histograms
set style histogram rowstacked
set style fill solid 0.8 border -1
set boxwidth 0.6
set xtics ('one CPU' 0, 'across CPUs' 1, 'free' 2)
set key outside bottom center horizontal
part(name) = sprintf("< awk -F, '$1 == \"%s\" { print $3 }' %s/breakdown.csv", name, data)
parts = "'kernel queue' 'coordinator' 'hand-over' 'wait for the gate' 'source' 'copy' 'wake'"
plot for [p in parts] part(p) using 1 title p
