# Work for Perl: what it prints depends on its argument alone.
use strict;
use warnings;
my $scale = shift;
my (%count, @list);
for my $i (1 .. 5000 * $scale) {
    my $key = sprintf("key-%03d", ($i * 7919) % 331);
    $count{$key}++;
    push @list, "$key:$i";
}
my @top = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
print "$_ $count{$_}\n" for @top[0 .. 4];
my $text = join ",", @list;
my $hits = () = $text =~ /key-(\d)\1\d:(\d+)/g;
(my $changed = $text) =~ s/key-(\d+)/<$1>/g;
print "$hits ", length($changed), " ", substr(reverse($changed), 0, 40), "\n";
my $nested = {};
$nested = { inner => $nested, list => [map { { n => $_ } } 1 .. 20] } for 1 .. 100 * $scale;
my $depth = 0;
while ($nested->{inner}) { $nested = $nested->{inner}; $depth++ }
print "depth $depth\n";
printf "%s\n", join " ", map { unpack "%32C*", pack "N*", $_ .. $_ + 50 } 1 .. 5;
local $_ = "a1b22c333" x 50;
tr/a-c/A-C/;
my @parts = split /(?<=\d)(?=[A-C])/;
print scalar(@parts), " $parts[-1]\n";
