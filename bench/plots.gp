# gnuplot -e "data='DIR'" bench/plots.gp : the report's pictures, from the CSV files that faultline-bench wrote to DIR.
set datafile separator ','
set terminal svg size 900,560 font 'sans,13' background 'white'
set grid
set key outside right top
shards = "1 2 4 8 16"
threads = "1 2 4 8 32"

# Cells of the usual case, one line a thread count: 4 KiB, read, warm, no removals, one target.
cell(t, column) = sprintf("< awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; next } $c[\"mode\"] == \"faults\" && $c[\"threads\"] == %s && $c[\"targets\"] == 1 && $c[\"page_size\"] == 4096 && $c[\"touch\"] == \"read\" && $c[\"source\"] == \"warm\" && $c[\"removals\"] == 0 { print $c[\"shards\"] \",\" $c[\"%s\"] }' %s/matrix.csv", t, column, data)

set xlabel 'shards'
set logscale x 2
set xtics (1, 2, 4, 8, 16)
set output data.'/throughput.svg'
set title '4 KiB demand faults, warm source, by shards'
set ylabel 'faults a second'
set yrange [0:*]
plot for [t in threads] cell(t, 'pages_per_second') using 1:2 with linespoints linewidth 2 title t.' threads'

set output data.'/latency.svg'
set title '4 KiB demand faults, latency by shards (solid p50, dashed p99)'
set ylabel 'microseconds'
set yrange [*:*]
set logscale y
plot for [t in threads] cell(t, 'p50_us') using 1:2 with linespoints linewidth 2 title t.' threads p50', \
     for [t in threads] cell(t, 'p99_us') using 1:2 with linespoints dashtype 2 title t.' threads p99'

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
parts = "'kernel queue and wakes' 'close the gate' 'hand-over' 'wait for the gate' 'source' 'copy'"
plot for [p in parts] part(p) using 1 title p
