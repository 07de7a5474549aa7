mod contenders; mod measures; mod random; mod run; mod scenes; mod world;
use contenders::Kind;
fn main(){
  let only: Option<String> = std::env::args().nth(1);
  for s in scenes::scenes(1.0) {
    println!("## {}", s.name);
    for k in Kind::ALL { if only.is_some() && k!=Kind::Ours {continue;}
      let mut l=vec![]; for seed in 1..=5 { l.push(scenes::play(k,&s.plan,seed)); }
      let f=|g:&dyn Fn(&scenes::Result)->f64| (measures::mean(l.iter().map(g)), l.iter().map(g).fold(f64::MAX,f64::min), l.iter().map(g).fold(f64::MIN,f64::max));
      let p=|n:&str,t:(f64,f64,f64)| print!("{n} {:.3} [{:.3} {:.3}] | ",t.0,t.1,t.2);
      print!("{:18} ",k.name()); p("jain",f(&|r|r.jain)); p("sw",f(&|r|r.switches)); p("mk",f(&|r|r.makespan)); p("p95",f(&|r|r.p95)); p("mean",f(&|r|r.mean)); p("light",f(&|r|r.light)); println!();
    } }
  for g in [1,2,4,8] { for k in Kind::ALL { for seed in 1..=2 { println!("{g} {} {:?}",k.name(),scenes::play_flood(k,g,seed)); } } }
}
